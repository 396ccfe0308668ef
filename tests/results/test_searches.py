"""Attacks of bound-distance in figures: means, who was nearest, ratios to exact distances, how reports show them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from robustcli.cli.distances import show_distances
from robustcli.results import records, search_tables, text
from robustcli.results.collect import collect
from robustcli.results.schema import PointRecord
from robustcli.results.searches import by_attack, nearer
from robustcli.results.store import summarise
from tests.results.fabricate import answer, distance, documented, question, recipe, trained


def searched(index: int, exact: float | None, **found: float | None) -> PointRecord:
    """A record whose exact distance is known (None: only that it lies below what was found), with attacks from
    scratch; `replay` is a witness known before."""
    reached = [value for value in found.values() if value is not None]
    record = distance(index, exact or 0.1, exact or min(reached), exact=exact is not None)
    return record.model_copy(update={"details": {"upper": {name: tried(value) for name, value in found.items()}}})


def tried(value: float | None, start: float | None = None) -> dict[str, Any]:
    return {"distance": value, "start": start, "passes": 10, "seconds": 0.5}


POINTS = [
    searched(0, 1.0, fab=1.0, ddn=1.25),
    searched(1, 2.0, fab=2.3, ddn=2.0 * (1 + 1e-8)),
    searched(2, 1.0, fab=3.0, ddn=None),
    searched(3, None, fab=5.0, ddn=5.0 * (1 + 1e-9)),
    distance(4, 0, 0, exact=True, right=False),
]


def test_means_counts_and_who_was_nearest() -> None:
    found = by_attack(POINTS)
    assert found is not None
    assert list(found) == ["fab", "ddn"]
    fab, ddn = found["fab"], found["ddn"]
    assert (fab.asked, fab.found, fab.nearest, fab.passes, fab.seconds) == (4, 4, 3, 40, 2.0)
    assert (ddn.asked, ddn.found, ddn.nearest) == (4, 3, 2)
    assert fab.mean == pytest.approx((1 + 2.3 + 5) / 3)
    assert fab.median == 2.3
    assert ddn.mean == pytest.approx((1.25 + 2 + 5) / 3)


def test_ratios_where_the_distance_is_exact() -> None:
    found = by_attack(POINTS)
    assert found is not None
    ratio = found["fab"].ratio
    assert ratio is not None
    assert ratio.curve == pytest.approx([3.0, 1.15, 1.0])
    assert (ratio.points, ratio.median, ratio.percentile_95) == (3, pytest.approx(1.15), 3.0)
    assert (ratio.share_above_1_1, ratio.share_above_1_2) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    failed = found["ddn"].ratio
    assert failed is not None
    assert failed.curve == [None, pytest.approx(1.25), pytest.approx(1.0)]
    assert failed.percentile_95 is None
    assert failed.share_above_1_2 == pytest.approx(2 / 3)


def test_the_percentile_of_many_points() -> None:
    """95 of 100 points have at most the 95th ratio."""
    found = by_attack([searched(place, 1.0, fab=1 + place / 100) for place in range(100)])
    assert found is not None
    ratio = found["fab"].ratio
    assert ratio is not None
    assert ratio.percentile_95 == pytest.approx(1.94)
    assert ratio.median == pytest.approx(1.495)
    assert sum(value is not None and value <= 1.94 + 1e-9 for value in ratio.curve) == 95


def test_no_ratios_of_attacks_that_started_from_known_points() -> None:
    later = searched(0, 1.0, fab=1.5)
    later.details["upper"]["fab"]["start"] = 2.0
    found = by_attack([later, searched(1, 1.0, fab=1.5, replay=2.0)])
    assert found is not None
    assert list(found) == ["replay", "fab"]
    assert found["fab"].ratio is None
    assert found["replay"].ratio is None
    assert found["replay"].nearest == 0


def test_nothing_without_attacks() -> None:
    assert by_attack([distance(0, 1.0, 2.0)]) is None
    assert summarise([distance(0, 1.0, 2.0)], 1, 1.0).searches is None


def test_two_records_of_a_point_tell_of_the_attack_from_scratch() -> None:
    one = {"fab": tried(1.0, start=1.5), "ddn": tried(None)}
    other = {"fab": tried(1.2), "ddn": tried(2.0), "ead": tried(3.0)}
    both = nearer(one, other)
    assert both == nearer(other, one)
    assert {name: part["distance"] for name, part in both.items()} == {"fab": 1.2, "ddn": 2.0, "ead": 3.0}


def test_the_command_shows_both_tables() -> None:
    canvas = io.StringIO()
    document = documented(question("bound-distance", eps=None, norm="l2"), POINTS)
    show_distances([document], Console(file=canvas, width=80))
    lines = canvas.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["fab", "4", "4", "2.7667", "2.3000", "3", "10", "2.0"] for line in lines)
    assert any(line.split() == ["ddn", "3", "1.2500", "-", "66.7", "%", "66.7", "%"] for line in lines)


def test_the_report_joins_exact_distances_and_attacks_of_several_questions(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    exact = [distance(place, value, value, exact=True) for place, value in enumerate((1.0, 2.0))]
    attacked = [searched(0, None, fab=1.5), searched(1, None, fab=2.0)]
    answer(run, question("bound-distance", eps=None, norm="l2", settings={"regions": None}), exact)
    answer(run, question("bound-distance", eps=None, norm="l2", settings={"each": True}), attacked)
    content = collect([run])
    (row,) = content.distances
    ratio = row.attacks["l2"]["fab"].ratio
    assert ratio is not None
    assert ratio.curve == [1.5, 1.0]
    (table,) = search_tables.attack_tables(content.distances)
    assert table.lines[0].cells == ["2", "1.75", "100.0", "2", "1.250", "1.500", "50.0", "50.0"]
    assert "toy on mnist: attacks for the smallest distance, l2" in text.text([table])
    assert max(map(len, text.text([table]).splitlines())) <= 80
    stored = json.loads(records.json_text(content.report))
    assert stored["distances"][0]["attacks"]["l2"]["fab"]["ratio"]["curve"] == [1.5, 1.0]


def test_one_attack_without_exact_distances_makes_no_table(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("bound-distance", eps=None, norm="l2"), [searched(0, None, nearest=1.5, replay=2.0)])
    assert search_tables.attack_tables(collect([run]).distances) == []
