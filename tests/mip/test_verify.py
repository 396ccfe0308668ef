"""Verdicts: equal to brute force, from evidence only, within the time limit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustcli.balls import Ball
from robustcli.mip.problem import Problem
from robustcli.mip.solver import SOLVERS, Licence, Outcome, Status
from robustcli.mip.verify import MipOutcome, verify
from robustcli.mip.witness import replay
from robustcli.networks.network import Network, margins
from tests.mip.cases import Case, case, golden, image, small
from tests.nets import dense

AVAILABLE = [name for name, make in SOLVERS.items() if make().licence().usable]


def run(found: Case, solvers: list, **settings) -> MipOutcome:
    return verify(
        found.network, found.ball, found.label, found.layers, found.targets, found.dual_margins, solvers, **settings
    )


@pytest.mark.parametrize("formulation", ["auto", "slack", "sub"])
@pytest.mark.parametrize("solver", AVAILABLE)
def test_golden_verdicts(solver: str, formulation: str) -> None:
    """Net G at eps 0.1: minima 0.05 and 1.33 (the dual alone says -0.28); at 0.2 the first is -0.36."""
    robust = run(golden(0.1), [SOLVERS[solver]()], formulation=formulation)
    assert (robust.verdict, robust.method, robust.reason, robust.witness) == ("robust", solver, None, None)
    assert 1e-6 <= robust.margin_lower <= 0.05 + 1e-7
    found = golden(0.2)
    vulnerable = run(found, [SOLVERS[solver]()], formulation=formulation)
    assert vulnerable.verdict == "vulnerable"
    assert vulnerable.witness is not None
    assert bool(found.ball.contains(vulnerable.witness.x.unsqueeze(0)))
    again = margins(found.network(vulnerable.witness.x.unsqueeze(0)), torch.tensor([found.label]))
    assert float(again) == vulnerable.witness.margin < 0
    assert vulnerable.margin_lower <= -0.35625 + 1e-7


@pytest.mark.parametrize("solver", AVAILABLE)
@pytest.mark.parametrize("seed", range(4))
def test_convolutional_verdicts_are_consistent(solver: str, seed: int) -> None:
    for eps in (0.02, 0.1):
        found = image(seed, eps)
        outcome = run(found, [SOLVERS[solver]()])
        samples = found.network(found.ball.sample(300)[0])
        lowest = float(margins(samples, torch.full((300,), found.label)).min())
        assert outcome.verdict in ("robust", "vulnerable")
        if outcome.verdict == "robust":
            assert 0 < outcome.margin_lower <= lowest
        assert outcome.margin_lower <= lowest
        assert outcome.unstable == tuple(int(layer.unstable.sum()) for layer in found.layers)


def test_worst_target_first_and_only_open_ones_are_solved() -> None:
    found = golden(0.1)
    outcome = verify(found.network, found.ball, found.label, found.layers, [2, 0], [1.1, -0.3], [SOLVERS["highs"]()])
    assert [target.target for target in outcome.targets] == [0, 2]
    details = outcome.details()
    assert details["solver_trusted"] is True
    assert details["binaries"] == 4
    assert [target["state"] for target in details["targets"]] == ["robust", "robust"]


def test_no_time_is_unknown() -> None:
    outcome = run(golden(0.1), [SOLVERS["highs"]()], seconds=0.0)
    assert (outcome.verdict, outcome.nodes) == ("unknown", 0)
    assert outcome.reason == "time limit (target 0)"
    assert outcome.margin_lower == pytest.approx(-0.284459, abs=1e-6)


class Faked:
    """A solver that answers what it is told to."""

    name, title = "faked", "Faked"

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)

    def version(self) -> str:
        return "0"

    def licence(self) -> Licence:
        return Licence("open", "")

    def minimise(self, problem: Problem, **_: object) -> Outcome:
        return self.answers.pop(0)


def said(status: Status, bound: float = -math.inf, x: np.ndarray | None = None, raw: str = "raw") -> Outcome:
    return Outcome(status, bound, x, 1, 0.0, raw)


PROVED = said("above", 1e-6)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said("error", 5.0, raw="INF_OR_UNBD"), "Faked ended with status INF_OR_UNBD (target 0)"),
        (said("limit", 5.0), "time limit (target 0)"),
        (said("optimal", 0.0, np.array([0.65, 0.3])), "tie: the smallest margin is 0 up to the tolerance (target 0)"),
        (said("below", -1.0, np.array([0.65, 0.3])), "witness rejected by the forward pass (target 0)"),
        (said("optimal", -1.0, np.array([0.65, 0.3])), "witness rejected by the forward pass (target 0)"),
        (said("below", -1.0), "Faked ended with status raw (target 0)"),
        (said("above", -1.0), "Faked ended with status raw (target 0)"),
    ],
)
def test_what_is_not_proved_is_never_a_verdict(answer: Outcome, reason: str) -> None:
    outcome = run(golden(0.1), [Faked(answer, PROVED)])
    assert (outcome.verdict, outcome.reason, outcome.witness) == ("unknown", reason, None)
    assert outcome.margin_lower <= 1e-6


def test_an_undecided_target_does_not_hide_a_witness_at_the_next() -> None:
    found = golden(0.2)
    truth = run(found, [SOLVERS["highs"]()])
    assert truth.witness is not None
    pixels = truth.witness.x.numpy()[found.encoding.pixels]
    outcome = run(found, [Faked(said("error"), said("below", -1.0, pixels))])
    assert outcome.verdict == "vulnerable"
    assert [target.state for target in outcome.targets] == ["solver error", "vulnerable"]


def test_all_targets_must_be_proved() -> None:
    assert run(golden(0.1), [Faked(PROVED, PROVED)]).verdict == "robust"
    assert run(golden(0.1), [Faked(PROVED, said("error"))]).verdict == "unknown"


def tied() -> tuple[Network, Ball]:
    """f_0 = |x|, f_1 = 0 around 0.25: the smallest margin over the ball of radius 0.25 or more is exactly 0."""
    network = dense([1, 2, 2], 0)
    for layer, weight in zip(network.layers[::2], ([[1.0], [-1.0]], [[1.0, 1.0], [0.0, 0.0]]), strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data.zero_()
    return network, torch.tensor([[0.25]], dtype=torch.float64)


@pytest.mark.parametrize("solver", AVAILABLE)
def test_a_margin_of_exactly_zero_is_a_tie(solver: str) -> None:
    network, x = tied()
    outcome = run(case(network, x, 0.5, None, 0), [SOLVERS[solver]()])
    assert outcome.verdict == "unknown"
    assert outcome.reason == "tie: the smallest margin is 0 up to the tolerance (target 1)"
    assert abs(outcome.margin_lower) <= 1e-6


@pytest.mark.parametrize("solver", AVAILABLE)
def test_without_unstable_neurons_the_problem_is_an_lp(solver: str) -> None:
    network = dense([3, 4, 3], 7)
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    tight = case(network, x, 1e-4, (0.0, 1.0))
    assert sum(tight.encoding.unstable) == 0
    outcome = run(tight, [SOLVERS[solver]()])
    assert outcome.verdict == "robust"
    assert outcome.size.binaries == 0
    flipped = replace(tight, label=(tight.label + 1) % 3)
    wrong = case(network, x, 1e-4, (0.0, 1.0), flipped.label)
    assert run(wrong, [SOLVERS[solver]()]).verdict == "vulnerable"


def test_a_candidate_outside_the_ball_is_projected_before_it_is_judged() -> None:
    found = small(0)
    far = np.full(3, 40.0)
    witness, margin = replay(found.network, found.ball, found.label, far)
    if witness is None:
        assert margin > -1e-9
    else:
        assert bool(found.ball.contains(witness.x.unsqueeze(0)))
    assert math.isfinite(margin)


def test_the_seed_and_repetition_change_nothing() -> None:
    found = image(1)
    first, second = (run(found, [SOLVERS["highs"]()], seed=3) for _ in range(2))
    assert (first.verdict, first.margin_lower, first.nodes) == (second.verdict, second.margin_lower, second.nodes)
