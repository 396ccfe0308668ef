"""Which network, recipe and weights a row is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustcli.recipes import loading
from robustcli.results import models
from robustcli.results.collect import collect
from robustcli.results.rows import rows
from robustcli.results.runs import RunFolder
from tests.results.fabricate import answer, distance, question, recipe, trained


def test_a_retrained_run_marks_the_results_of_its_earlier_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("mip-verify", model="old"), "rrv")
    answer(run, question("mip-verify", model="new"), "rrr")
    monkeypatch.setattr(models, "_current", lambda run: "new")
    notes = {row.model: row.notes for block in collect([run]).blocks for row in block.rows}
    assert notes == {"old": ["earlier weights of this run, replaced since"], "new": []}


def test_unreadable_weights_are_no_reason_to_stop(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    for model in ("old", "new"):
        answer(run, question("mip-verify", model=model), "rrv")
    assert [model.replaced for model in models.models([run])] == [False, False]


def test_results_outside_a_run_folder_take_the_shipped_recipe_of_the_same_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "elsewhere")
    answer(run, question("certify"), "ru")
    (model,) = models.models([run])
    assert model.recipe is None
    assert model.identity == {"name": "elsewhere", "recipe": "toy", "seed": 0, "model": "net", "dataset": "mnist"}
    monkeypatch.setattr(loading, "load", lambda name: recipe(name))
    monkeypatch.setattr("robustcli.recipes.model.Recipe.hash", property(lambda self: "0" * 64))
    assert models.models([run])[0].recipe == recipe()


def test_overrides_are_said_below_the_table(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe(), 0, ["training.epochs=5"])
    run.overrides_file.write_text('["training.epochs=5"]')
    answer(run, question("certify"), "ru")
    (row,) = rows(models.models([run])[0])
    assert row.notes == ["recipe changed by training.epochs=5"]


def test_a_point_misclassified_in_one_record_is_so_for_every_ball(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    answer(run, question("bound-distance", "l2", None), [distance(0, 0, 0, right=False), distance(1, 1, 1)])
    answer(run, question("attack"), "uu")
    (row,) = rows(models.models([run])[0])
    assert (row.test_error, row.test_error_here, row.lower) == (0.5, 0.5, {"linf": 0.5})
