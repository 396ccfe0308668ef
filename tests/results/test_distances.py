"""Figures of distances by method, the histogram, and how they are printed."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from robustcli.cli.distances import show_distances
from robustcli.evaluation.distance_methods import METHODS
from robustcli.results import records, tables, text
from robustcli.results.collect import collect
from robustcli.results.distances import BINS, ORDER, by_method, histogram, meet
from robustcli.results.schema import PointRecord
from tests.results.fabricate import answer, distance, documented, question, recipe, trained


def bounded(index: int, upper: float | None, **alone: float | None) -> PointRecord:
    """A record of bound-distance with the lower bounds of several methods."""
    finite = [math.inf if value is None else value for value in alone.values()]
    lower = None if math.inf in finite else max(finite)
    record = distance(index, lower, upper, exact=meet(math.inf if lower is None else lower, upper or math.inf))
    return record.model_copy(update={"details": {"lower": alone}})


POINTS = [
    bounded(0, 2.0, region=0.5, boxed=1.0, kw=0.75),
    bounded(1, 1.0, region=1.0, boxed=1.0, kw=0.25),
    bounded(2, 4.0, region=0.5, boxed=4.0 * (1 - 1e-8), kw=0.5),
    distance(3, 0, 0, exact=True, right=False),
]


def test_the_order_is_that_of_the_registry() -> None:
    assert tuple(METHODS) == ORDER


def test_each_method_alone_and_the_best_so_far() -> None:
    found = by_method(POINTS)
    assert list(found) == ["region", "boxed", "kw"]
    assert found["region"] == pytest.approx(
        {"mean": 2 / 3, "median": 0.5, "share_exact": 1 / 3, "best_mean": 2 / 3, "best_share_exact": 1 / 3}
    )
    assert found["kw"] == pytest.approx(
        {"mean": 0.5, "median": 0.5, "share_exact": 0.0, "best_mean": 2.0, "best_share_exact": 2 / 3}, abs=1e-6
    )


def test_infinite_bounds_are_left_out_of_means() -> None:
    found = by_method([bounded(0, None, region=1.0, kw=None), bounded(1, 3.0, region=2.0, kw=1.0)])
    assert found["kw"]["mean"] == 1.0
    assert found["kw"]["best_mean"] == 2.0
    assert found["kw"]["share_exact"] == 0


def test_ends_that_meet() -> None:
    assert meet(1.0, 1.0 + 5e-7)
    assert not meet(1.0, 1.0 + 5e-6)
    assert not meet(math.inf, math.inf)


def test_histogram() -> None:
    found = histogram(POINTS)
    assert found is not None
    assert found.last == 4.0
    assert sum(found.lower) == sum(found.upper) == 3
    assert found.upper[BINS // 2] == found.upper[BINS // 4] == found.upper[-1] == 1
    assert found.lower[BINS // 4] == 2
    assert histogram([distance(0, None, None)]) is None
    assert histogram([distance(0, 0.0, None)]) is None
    only_lower = histogram([distance(0, 1.0, None), distance(1, None, None)])
    assert only_lower is not None
    assert only_lower.lower[-1] == 1


def test_what_the_command_prints_fits_80_columns() -> None:
    canvas = io.StringIO()
    document = documented(question("bound-distance", "linf", None), POINTS)
    show_distances([document], Console(file=canvas, width=80, color_system=None))
    lines = canvas.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["KW", "bound", "0.5000", "0.5000", "0.0", "%", "2.0000", "66.7", "%"] for line in lines)
    assert "highest bar: 2 points" in canvas.getvalue()


def test_the_report_has_a_table_by_method(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("bound-distance", "l2", None), POINTS)
    more = [bounded(index, 9.0, region=0.0, neighbours=0.8) for index in range(3)] + [POINTS[3]]
    answer(run, question("bound-distance", "l2", None, settings={"regions": 9}), more)
    content = collect([run])
    _, table = tables.distance_tables(content.distances)
    assert [column.head for column in table.columns] == ["pts", "region", "boxed", "neighb.", "KW", "best"]
    assert table.lines[0].cells == ["4", "0.667", "2", "0.8", "0.5", "2"]
    assert "lower bounds by method, l2" in text.text([table])
    assert "distance_l2_neighbours_mean" in records.csv_text(content.report).splitlines()[0]
