"""Inputs of one norm in the balls of others: shares against brute force, what counts, how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from robustcli.cli.app import run as command
from robustcli.results import search_tables, text
from robustcli.results.attacks import REPLAY
from robustcli.results.collect import collect
from robustcli.results.containment import ContainmentRow
from robustcli.results.runs import RunFolder
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Witness, store
from tests.results.fabricate import answer, distance, question, recipe, record, trained

EPS = {"l1": 1.0, "l2": 0.3, "linf": 0.1}
ONE = [0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
FLAT = [0.1] * 16
SPREAD = [0.05] * 16
"""Lengths in l1, l2, linf: 0.25, 0.25, 0.25; 1.6, 0.4, 0.1; 0.8, 0.2, 0.05."""


def kept(run: RunFolder, index: int, move: Sequence[float], norm: str) -> str:
    """A stored witness that is moved so; its name."""
    point = np.linspace(0, 1, 16).reshape(1, 4, 4)
    moved = point + np.array(move).reshape(1, 4, 4)
    run.witnesses.mkdir(exist_ok=True)
    return store(run.witnesses, Witness(point, moved, index, 0, -1.0, norm, 0.0, "net"))


def broken(run: RunFolder, index: int, move: Sequence[float], norm: str, method: str = "pgd") -> PointRecord:
    return record(index, "v", method).model_copy(update={"witness": kept(run, index, move, norm)})


def rows(run: RunFolder) -> dict[str, ContainmentRow]:
    return {row.kind: row for row in collect([run], containment=True).containment}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """l1: two inputs, l2: one, linf: two and one that was only replayed."""
    run = trained(tmp_path, recipe())
    answer(run, question("attack", "l1", EPS["l1"]), [broken(run, 0, ONE, "l1"), broken(run, 1, SPREAD, "l1")])
    answer(run, question("attack", "l2", EPS["l2"]), [broken(run, 0, ONE, "l2"), record(1, "u")])
    found = [broken(run, 0, FLAT, "linf"), broken(run, 1, SPREAD, "linf"), broken(run, 2, SPREAD, "linf", REPLAY)]
    answer(run, question("attack", "linf", EPS["linf"]), found)
    return run


def test_shares(run: RunFolder) -> None:
    row = rows(run)["within"]
    assert row.found == {"l1": 2, "l2": 1, "linf": 2}
    assert row.replayed == {"linf": 1}
    assert row.shares == {
        "l1": {"l2": 1.0, "linf": 0.5},
        "l2": {"l1": 1.0, "linf": 0.0},
        "linf": {"l1": 0.5, "l2": 0.5},
    }
    assert row.eps == EPS


def test_a_point_counts_once_and_by_its_own_search(run: RunFolder) -> None:
    """A search of its own replaces what was replayed."""
    answer(run, question("mip-verify", "linf", EPS["linf"]), [broken(run, 2, FLAT, "linf", "highs"), record(0, "u")])
    row = rows(run)["within"]
    assert row.found["linf"] == 3
    assert row.replayed == {}
    assert row.shares["linf"]["l2"] == pytest.approx(1 / 3)


def test_missing_witnesses_are_passed_over(run: RunFolder) -> None:
    for path in run.witnesses.glob("*.npz"):
        path.unlink()
    assert rows(run) == {}


def test_the_nearest_inputs_count_apart(run: RunFolder) -> None:
    """Only those within eps, of several questions the nearest, inside the same kind of ball."""
    near = distance(0, 0.1, 0.25).model_copy(update={"witness": kept(run, 0, ONE, "l2")})
    far = distance(1, 0.1, 0.4).model_copy(update={"witness": kept(run, 1, FLAT, "l2")})
    nearer = distance(0, 0.1, 0.2).model_copy(update={"witness": kept(run, 0, SPREAD, "l2")})
    answer(run, question("bound-distance", "l2", None), [near, far])
    assert rows(run)["nearest"].shares == {"l2": {"l1": 1.0, "linf": 0.0}}
    answer(run, question("bound-distance", "l2", None, settings={"each": True}), [nearer])
    answer(run, question("bound-distance", "l2", None, boxed=False), [nearer])
    row = rows(run)["nearest"]
    assert (row.boxed, row.found, row.shares) == (True, {"l2": 1}, {"l2": {"l1": 1.0, "linf": 1.0}})


def test_the_recipes_radii_where_no_ball_was_asked_about(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    near = distance(0, 0.1, 0.25).model_copy(update={"witness": kept(run, 0, ONE, "l2")})
    answer(run, question("bound-distance", "l2", None), [near])
    assert rows(run)["nearest"].eps == EPS


def test_the_table(run: RunFolder) -> None:
    (table,) = search_tables.containment_tables(collect([run], containment=True).containment)
    assert [(column.group, column.head) for column in table.columns[:4]] == [
        ("l1", "n"),
        ("l1", "l2"),
        ("l1", "linf"),
        ("l2", "n"),
    ]
    assert table.lines[0].cells == ["2", "100.0", "50.0", "1", "100.0", "0.0", "2", "50.0", "50.0"]
    assert table.notes == ["replayed witnesses left out: linf 1"]
    assert max(map(len, text.text([table]).splitlines())) <= 80


def test_only_where_asked_for(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect([run]).containment == []
    assert command(["report", str(run.path), "--containment", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["containment"]
    assert row["shares"]["l1"] == {"l2": 1.0, "linf": 0.5}
    assert command(["report", str(run.path), "--containment"]) == 0
    assert "that lie in other balls" in capsys.readouterr().out
