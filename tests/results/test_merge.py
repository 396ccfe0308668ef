"""Claims of several commands about one point: what carries over, what contradicts."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from robustcli.errors import ContradictionError
from robustcli.results import merge
from robustcli.results.merge import Ball
from robustcli.results.runs import RunFolder
from robustcli.results.schema import Verdict
from tests.results.fabricate import answer, distance, question


def known(run: RunFolder, boxed: bool, norm: str = "linf", eps: float = 0.1) -> dict[int, Verdict]:
    answers = merge.gather(run)
    merge.check(answers)
    return merge.verdicts(answers, Ball(norm, eps, boxed)).verdicts


@pytest.mark.parametrize(
    ("verdict", "asked", "about", "holds"),
    [
        ("robust", False, False, True),
        ("robust", False, True, True),
        ("robust", True, True, True),
        ("robust", True, False, False),
        ("vulnerable", True, True, True),
        ("vulnerable", True, False, True),
        ("vulnerable", False, False, True),
        ("vulnerable", False, True, False),
        ("misclassified", True, False, True),
        ("misclassified", False, True, True),
    ],
)
def test_what_carries_over_between_boxed_and_unboxed(verdict: Verdict, asked: bool, about: bool, holds: bool) -> None:
    """The cut ball is part of the whole ball: proofs go inwards, witnesses outwards."""
    assert merge.carries(verdict, asked, about) is holds


def test_commands_add_up(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("attack"), "vuuum")
    answer(run, question("certify"), "uruum")
    answer(run, question("mip-verify"), "..vru")
    assert list(known(run, True).values()) == ["vulnerable", "robust", "vulnerable", "robust", "misclassified"]


def test_unboxed_certificates_and_boxed_witnesses_serve_both_balls(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("attack", boxed=True), "vuu")
    answer(run, question("certify", boxed=False), "uru")
    assert known(run, True) == known(run, False) == {0: "vulnerable", 1: "robust", 2: "unknown"}


def test_boxed_certificates_and_unboxed_witnesses_serve_their_own_ball(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("attack", boxed=False), "vv")
    answer(run, question("certify", boxed=True), "ru")
    assert known(run, True) == {0: "robust", 1: "unknown"}
    assert known(run, False) == {0: "vulnerable", 1: "vulnerable"}


@pytest.mark.parametrize(("proof_boxed", "witness_boxed"), list(itertools.product([True, False], repeat=2)))
def test_contradictions_across_commands(tmp_path: Path, proof_boxed: bool, witness_boxed: bool) -> None:
    """Only a witness outside the box can live with a proof inside it."""
    run = RunFolder(tmp_path)
    attacked = answer(run, question("attack", boxed=witness_boxed), "uv")
    certified = answer(run, question("certify", boxed=proof_boxed), "ur")
    if proof_boxed and not witness_boxed:
        merge.check(merge.gather(run))
        return
    with pytest.raises(ContradictionError) as caught:
        merge.check(merge.gather(run))
    assert f"{attacked / 'points.jsonl'}:2: point 1 vulnerable" in str(caught.value)
    assert f"{certified / 'points.jsonl'}:2: point 1 robust" in str(caught.value)


@pytest.mark.parametrize(
    ("witness", "proof", "wrong"),
    [
        (("linf", 0.1), ("linf", 0.2), True),
        (("linf", 0.2), ("linf", 0.1), False),
        (("l1", 0.1), ("linf", 0.1), True),
        (("l1", 0.1), ("l2", 0.3), True),
        (("linf", 0.1), ("l1", 1.0), False),
        (("l2", 0.3), ("linf", 0.1), False),
    ],
)
def test_a_witness_refutes_every_ball_around_its_own(
    tmp_path: Path, witness: tuple[str, float], proof: tuple[str, float], wrong: bool
) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("attack", *witness), "v")
    answer(run, question("certify", *proof), "r")
    if wrong:
        with pytest.raises(ContradictionError):
            merge.check(merge.gather(run))
    else:
        merge.check(merge.gather(run))


def test_distances_are_claims_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("bound-distance", eps=None), [distance(0, 0.2, 0.4), distance(1, 0.1, None)])
    answer(run, question("certify", eps=0.3), "rr")
    answer(run, question("attack", eps=0.2), "uu")
    merge.check(merge.gather(run))
    answer(run, question("attack", eps=0.15), "vu")
    with pytest.raises(ContradictionError, match=r"distance in \[0\.2, 0\.4\]"):
        merge.check(merge.gather(run))


def test_a_distance_found_inside_a_certified_ball(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("bound-distance", eps=None), [distance(0, 0.2, 0.25)])
    answer(run, question("certify", eps=0.3), "r")
    with pytest.raises(ContradictionError):
        merge.check(merge.gather(run))


def test_other_networks_and_splits_are_other_questions(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("attack"), "v")
    answer(run, question("certify", model="another"), "r")
    answer(run, question("certify", data="another"), "r")
    merge.check(merge.gather(run))


def test_the_same_network_in_two_runs_is_one_network(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    answer(first, question("attack"), "v")
    answer(second, question("certify"), "r")
    with pytest.raises(ContradictionError):
        merge.check([*merge.gather(first), *merge.gather(second)])


def test_coverage_by_command(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("attack"), "uuu")
    answer(run, question("certify"), "u")
    answer(run, question("mip-verify"), ".r")
    found = merge.verdicts(merge.gather(run), Ball("linf", 0.1, True))
    assert found.attacked == {0, 1, 2}
    assert found.verified == {0, 1}


@pytest.mark.parametrize(
    ("methods", "seeks"),
    [(["dual"], False), (["dual", "attack"], True), (["dual", "branch-and-bound"], True), (["dual", "lp"], False)],
)
def test_certify_looks_for_witnesses_when_a_stage_does(methods: list[str], seeks: bool, tmp_path: Path) -> None:
    """A lower bound on the robust error is claimed where inputs were searched for, found or not."""
    run = RunFolder(tmp_path)
    answer(run, question("certify", settings={"methods": methods}), "rum")
    found = merge.verdicts(merge.gather(run), Ball("linf", 0.1, True))
    assert found.verified == {0, 1, 2}
    assert found.attacked == ({0, 1, 2} if seeks else frozenset())


def test_a_witness_found_by_certify_contradicts_a_proof(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    answer(run, question("certify", settings={"methods": ["dual", "attack"]}), "rv")
    assert known(run, True) == {0: "robust", 1: "vulnerable"}
    answer(run, question("mip-verify"), "rr")
    with pytest.raises(ContradictionError):
        known(run, True)
