"""Rows of the report: which points, which figures, seeds, the papers' rows, distances."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustcli.errors import ContradictionError, DataError, UnknownNameError
from robustcli.recipes.model import Published
from robustcli.results.collect import collect, find_runs
from robustcli.results.published import differences, eps_text
from robustcli.results.rows import Row, span
from robustcli.results.runs import RunFolder
from tests.results.fabricate import answer, distance, published, question, recipe, trained


def only(run: RunFolder, **options: object) -> list[Row]:
    return [row for block in collect([run], **options).blocks for row in block.rows]  # type: ignore[arg-type]


def test_three_norms_and_their_union(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    for norm, eps, attacked, certified in (
        ("l1", 1.0, "vuuum", "urrum"),
        ("l2", 0.3, "uvuum", "ruuum"),
        ("linf", 0.1, "uuuum", "rrrrm"),
    ):
        answer(run, question("attack", norm, eps), attacked)
        answer(run, question("certify", norm, eps), certified)
    (row,) = only(run)
    assert row.eps == {"l1": 1.0, "l2": 0.3, "linf": 0.1}
    assert (row.points, row.range, row.test_error) == (5, "0:5", pytest.approx(0.2))
    assert row.lower == pytest.approx({"l1": 0.4, "l2": 0.4, "linf": 0.2, "union": 0.6})
    assert row.upper == pytest.approx({"l1": 0.6, "l2": 0.8, "linf": 0.2, "union": 1.0})
    assert len(row.sources) == 6


def test_no_union_without_all_three_norms(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    for norm, eps in (("l1", 1.0), ("linf", 0.1)):
        answer(run, question("mip-verify", norm, eps), "rv")
    (row,) = only(run)
    assert set(row.lower) == set(row.upper) == {"l1", "linf"}


def test_a_figure_that_was_not_measured_is_absent(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("certify"), "rum")
    (row,) = only(run)
    assert row.lower == {}
    assert row.upper == pytest.approx({"linf": 2 / 3})


def test_more_points_for_one_command_make_a_row_of_their_own(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("attack"), "vuu")
    answer(run, question("certify"), "urrrrrrrum")
    both, wide = only(run)
    assert (both.range, both.lower, both.upper) == ("0:3", {"linf": 1 / 3}, pytest.approx({"linf": 1 / 3}))
    assert (wide.range, wide.lower, wide.upper) == ("0:10", {}, pytest.approx({"linf": 0.3}))
    assert both.test_error == wide.test_error == pytest.approx(0.1)
    assert both.test_error_here == 0
    assert both.notes == ["TE over the points 0:10"]


def test_unboxed_row_only_where_it_says_something_else(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("attack"), "vuu")
    answer(run, question("certify", boxed=False), "uru")
    assert [row.boxed for row in only(run)] == [True]
    answer(run, question("certify", boxed=True), "urr")
    boxed, unboxed = only(run)
    assert (boxed.boxed, boxed.upper["linf"]) == (True, pytest.approx(1 / 3))
    assert (unboxed.boxed, unboxed.upper["linf"]) == (False, pytest.approx(2 / 3))
    assert boxed.lower == unboxed.lower


def test_other_radii_stand_in_rows_of_their_own(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    for eps in (0.05, 0.1, 0.3):
        answer(run, question("mip-verify", eps=eps), "r")
    assert [row.eps["linf"] for row in only(run)] == [0.1, 0.05, 0.3]


def test_shards_and_commands_give_the_figures_of_one_run(tmp_path: Path) -> None:
    whole, split = trained(tmp_path / "a", recipe()), trained(tmp_path / "b", recipe())
    letters = "rvmurrvmrr"
    answer(whole, question("mip-verify"), letters)
    for shard in range(3):
        part = "".join(letter if index % 3 == shard else "." for index, letter in enumerate(letters))
        answer(split, question("mip-verify"), part, (shard + 1, 3))
    (first,), (second,) = only(whole), only(split)
    assert first.model_copy(update={"sources": []}) == second.model_copy(update={"sources": []})


def test_mean_and_standard_deviation_over_seeds(tmp_path: Path) -> None:
    for seed, letters in enumerate(("rrrr", "rrvm", "rvvm")):
        answer(trained(tmp_path, recipe(), seed), question("mip-verify", model=f"net{seed}"), letters)
    (block,) = collect(find_runs([], tmp_path)).blocks
    assert [(row.kind, row.seed) for row in block.rows] == [
        ("run", 0),
        ("run", 1),
        ("run", 2),
        ("mean", None),
        ("sd", None),
    ]
    mean, deviation = block.rows[3:]
    assert mean.seeds == 3
    assert mean.lower["linf"] == pytest.approx(1.25 / 3)
    assert deviation.lower["linf"] == pytest.approx(0.38188130791298666)
    assert deviation.test_error == pytest.approx(0.14433756729740643)


def test_published_rows_stand_below_ours_with_their_differences(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe(published=[published(boxed=True, eps={"linf": 0.1}, notes=["a note"])]))
    answer(run, question("mip-verify"), "rv")
    ((row,),) = [block.published for block in collect([run]).blocks]
    assert (row.name, row.points, row.boxed) == ("paper 001 Table 2", 1000, True)
    assert row.upper["union"] == pytest.approx(0.208)
    assert row.notes == ["points: first 1000 (ours: 0:2)", "a note"]


def test_every_differing_condition_is_named() -> None:
    ours = Row(
        kind="run", name="toy", dataset="cifar10", eps={"linf": 2 / 255}, boxed=True, points=1000, range="0:1000"
    )
    same = Published.model_validate(published(boxed=True, eps={"linf": 0.007843}))
    assert differences(same, ours) == []
    full = Published.model_validate(published(points="full test set", boxed=False, eps={"linf": "8/255", "l1": 2}))
    assert differences(full, ours) == [
        "points: full test set (ours: 0:1000)",
        "certified ball: not cut with the input box (ours: cut with the input box)",
        "linf eps: 8/255 (ours: 2/255)",
    ]
    everything = ours.model_copy(update={"range": "0:10000", "boxed": False, "eps": {"linf": 8 / 255}})
    assert differences(full, everything) == []


def test_radii_as_people_write_them() -> None:
    assert [eps_text(eps) for eps in (0.1, 1.0, 2 / 255, 0.0157, 0.123456789)] == [
        "0.1", "1", "2/255", "0.0157", "0.123457",
    ]  # fmt: skip


def test_span() -> None:
    assert span([3, 1, 2]) == "1:4"
    assert span([0, 2, 9]) == "3 of 0:10"


def test_distances_combine_the_best_of_all_questions(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("bound-distance", "l2", None), [distance(0, 1, None), distance(1, 2, 2, exact=True)])
    other = question("bound-distance", "l2", None, settings={"regions": 5})
    answer(run, other, [distance(0, 0.5, 3), distance(1, 1, 4)])
    (row,) = collect([run]).distances
    assert row.norms["l2"]["mean_lower"] == pytest.approx(1.5)
    assert row.norms["l2"]["mean_upper"] == pytest.approx(2.5)
    assert row.norms["l2"]["share_exact"] == 0.5
    assert collect([run]).blocks == []


def test_filters(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe(published=[published()]))
    for norm, eps in (("l1", 1.0), ("l2", 0.3), ("linf", 0.1)):
        answer(run, question("mip-verify", norm, eps), "rv")
    (block,) = collect([run], norms=["l2"]).blocks
    assert set(block.rows[0].lower) == set(block.published[0].lower) == {"l2"}
    assert len(collect([run], dataset="mnist").blocks) == 1
    with pytest.raises(DataError, match=r"no results for data set gtsrb .*mnist l1"):
        collect([run], dataset="gtsrb")


def test_a_contradiction_stops_the_report_though_its_norm_is_not_shown(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("mip-verify"), "r")
    answer(run, question("attack", "l1", 0.05), "v")
    with pytest.raises(ContradictionError):
        collect([run], norms=["l2"])


def test_finding_runs(tmp_path: Path) -> None:
    first, second = trained(tmp_path, recipe()), trained(tmp_path, recipe(), 1)
    changed, other = trained(tmp_path, recipe(), 0, ["a=1"]), trained(tmp_path, recipe("zoo"))
    assert find_runs([], tmp_path) == [first, second, changed, other]
    assert find_runs(["toy"], tmp_path) == [first, second]
    assert find_runs([str(second.path), "zoo", "zoo"], tmp_path) == [second, other]
    assert find_runs([], tmp_path, recipe="toy") == [first, second, changed]
    with pytest.raises(UnknownNameError, match="did you mean 'toy'"):
        find_runs(["tooy"], tmp_path)
    with pytest.raises(UnknownNameError, match="zoo"):
        find_runs([], tmp_path, recipe="zo")
    with pytest.raises(DataError, match="no runs"):
        find_runs([], tmp_path / "nowhere")
