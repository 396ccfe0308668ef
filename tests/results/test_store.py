"""The per-point store: torn lines, shards, contradictions, summaries."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcli.errors import ContradictionError, DataError
from robustcli.results import distances, store
from robustcli.results.runs import RunFolder
from robustcli.results.store import PointStore
from tests.results.fabricate import answer, distance, documented, question, record


def test_records_come_back(tmp_path: Path) -> None:
    points = PointStore(tmp_path)
    assert points.records() == {}
    points.append([])
    assert not points.path.exists()
    points.append([record(3, "r"), record(1, "u")])
    points.append([record(1, "v")])
    assert points.records() == {3: record(3, "r"), 1: record(1, "v")}


def test_infinite_distances_are_stored_as_null(tmp_path: Path) -> None:
    PointStore(tmp_path).append([distance(0, 1.0, math.inf)])
    (read,) = PointStore(tmp_path).records().values()
    assert "Infinity" not in PointStore(tmp_path).path.read_text()
    assert distances.distance(read, "upper") == math.inf


@given(cut=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_torn_last_line_costs_one_record_at_most(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    points = PointStore(tmp_path_factory.mktemp("torn"))
    points.append([record(index, "r") for index in range(4)])
    whole = points.path.read_bytes()
    kept = whole[: max(0, len(whole) - cut)]
    points.path.write_bytes(kept)
    complete = kept.count(b"\n")
    assert set(points.records()) in ({*range(complete)}, {*range(complete + 1)})
    points.append([record(9, "v")])
    assert points.records()[9] == record(9, "v")
    assert set(points.records()) >= {*range(complete), 9}


def test_a_whole_line_of_another_format_is_an_error(tmp_path: Path) -> None:
    PointStore(tmp_path).append([record(0, "r")])
    with PointStore(tmp_path).path.open("a") as file:
        file.write('{"index": 1, "colour": "red"}\n')
    with pytest.raises(DataError, match=r"points\.jsonl:2 .*colour"):
        PointStore(tmp_path).records()


@given(letters=st.text("rvmu", min_size=1, max_size=30), count=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_merged_shards_equal_the_unsharded_run(
    tmp_path_factory: pytest.TempPathFactory, letters: str, count: int
) -> None:
    records = [record(index, letter) for index, letter in enumerate(letters)]
    whole, split = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("split")
    PointStore(whole).append(records)
    for shard in range(count):
        PointStore(split, (shard + 1, count)).append(records[shard::count])
    assert store.merge(split) == store.merge(whole) == dict(enumerate(records))
    merged = store.summarise(store.merge(split), len(records), 1.0)
    assert merged == store.summarise(records, len(records), 1.0)


def test_a_decided_answer_goes_before_unknown(tmp_path: Path) -> None:
    PointStore(tmp_path, (1, 2)).append([record(0, "r")])
    PointStore(tmp_path, (2, 2)).append([record(0, "u")])
    PointStore(tmp_path).append([record(0, "u")])
    assert store.merge(tmp_path) == {0: record(0, "r")}


@pytest.mark.parametrize(("first", "second"), ["rv", "vr", "rm", "mr"])
@pytest.mark.parametrize("where", [((1, 2), (2, 2)), (None, None), (None, (1, 1))])
def test_injected_contradiction_names_both_lines(
    tmp_path: Path, first: str, second: str, where: tuple[store.Shard | None, store.Shard | None]
) -> None:
    PointStore(tmp_path, where[0]).append([record(7, "u"), record(8, first, "dual")])
    PointStore(tmp_path, where[1]).append([record(8, second, "highs")])
    with pytest.raises(ContradictionError) as caught:
        store.merge(tmp_path)
    text = str(caught.value)
    assert caught.value.exit_code == 1
    line = 3 if where == (None, None) else 1
    assert f"{store.points_file(tmp_path, where[0])}:2: point 8 {record(8, first).verdict} (dual)" in text
    assert f"{store.points_file(tmp_path, where[1])}:{line}: point 8 {record(8, second).verdict} (highs)" in text


def test_a_contradiction_is_found_though_a_later_line_replaces_it(tmp_path: Path) -> None:
    PointStore(tmp_path).append([record(0, "r"), record(0, "v"), record(0, "u")])
    with pytest.raises(ContradictionError, match=r"points\.jsonl:2"):
        store.merge(tmp_path)


def test_distances_that_cross_contradict(tmp_path: Path) -> None:
    PointStore(tmp_path, (1, 2)).append([distance(0, 0.5, 0.7), distance(1, 0.3, None)])
    PointStore(tmp_path, (2, 2)).append([distance(1, 0.3, 0.3 * (1 - 1e-9))])
    assert set(store.merge(tmp_path)) == {0, 1}
    PointStore(tmp_path, (2, 2)).append([distance(0, 0.2, 0.4)])
    with pytest.raises(ContradictionError, match=r"distance in \[0\.5, 0\.7\]"):
        store.merge(tmp_path)


def test_question_is_written_once_and_kept(tmp_path: Path) -> None:
    store.write_question(tmp_path, question())
    before = (tmp_path / "question.json").stat().st_mtime_ns
    store.write_question(tmp_path, question())
    assert (tmp_path / "question.json").stat().st_mtime_ns == before
    assert store.read_question(tmp_path) == question()
    with pytest.raises(DataError, match="another question"):
        store.write_question(tmp_path, question(eps=0.2))
    with pytest.raises(DataError, match="cannot read"):
        store.read_question(tmp_path / "nowhere")


def test_documents_stand_beside_their_points(tmp_path: Path) -> None:
    folder = answer(RunFolder(tmp_path), question(), "rv", shard=(2, 3))
    assert {path.name for path in folder.iterdir()} == {
        "question.json",
        "points-shard-2-of-3.jsonl",
        "result-shard-2-of-3.json",
    }
    read = store.read_document(store.result_file(folder, (2, 3)))
    assert read.question == question()
    assert read.summary == documented(question(), [record(0, "r"), record(1, "v")]).summary
    (folder / "result.json").write_text("{}")
    with pytest.raises(DataError, match=r"result\.json"):
        store.read_document(folder / "result.json")


def test_summary_counts_errors_as_the_papers_do() -> None:
    summary = store.summarise([record(index, letter) for index, letter in enumerate("rrrrmvvuuu")], 20, 3.5)
    assert (summary.points, summary.requested, summary.seconds) == (10, 20, 3.5)
    assert summary.test_error == pytest.approx(0.1)
    assert summary.robust_error_lower == pytest.approx(0.3)
    assert summary.robust_error_upper == pytest.approx(0.6)
    assert summary.verdicts == {"robust": 4, "vulnerable": 2, "misclassified": 1, "unknown": 3}
    assert summary.distance is None


def test_summary_of_nothing() -> None:
    summary = store.summarise([], 5, 0.0)
    assert summary.points == 0
    assert summary.robust_error_lower is None
    assert summary.robust_error_upper is None
    assert summary.distance is None


def test_summary_of_distances() -> None:
    rows = [distance(0, 1, 2), distance(1, 3, 3, exact=True), distance(2, 2, None), distance(3, 9, 9, right=False)]
    summary = store.summarise(rows, 4, 1.0)
    assert summary.test_error == pytest.approx(0.25)
    assert summary.robust_error_lower is None
    assert summary.distance == pytest.approx(
        {
            "points": 3,
            "share_exact": 1 / 3,
            "mean_lower": 2,
            "mean_upper": 2.5,
            "mean_lower_all": 4 / 3,
            "mean_upper_all": 5 / 3,
            "median_lower": 2,
            "median_upper": 3,
            "infinite_lower": 0,
            "infinite_upper": 1,
        }
    )


def test_median_without_a_finite_value_is_left_out() -> None:
    figures = distances.distances([distance(0, 1, None), distance(1, 1, None), distance(2, 1, 1)])
    assert "median_upper" not in figures
    assert figures["mean_upper"] == 1
    assert distances.distances([distance(0, 1, 1, right=False)]) == {
        "points": 0,
        "infinite_lower": 0,
        "infinite_upper": 0,
    }
