"""Run folders: names, order of overrides, foreign folders, the newest run."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from robustcli.errors import CheckpointError, RecipeError
from robustcli.results.runs import RunFolder, all_runs, newest, run_folder, runs_in, runs_root
from tests.results.fabricate import answer, question, recipe, trained

OVERRIDES = ["training.epochs=5", "method.lmbd=2", "eps.linf=2/255"]


def test_order_of_overrides_does_not_matter() -> None:
    folders = {run_folder(Path("r"), recipe(), list(order), 3).path for order in itertools.permutations(OVERRIDES)}
    assert len(folders) == 1
    name = folders.pop().parent.name
    assert name.startswith("toy+")
    assert len(name) == len("toy+") + 8


def test_values_and_seeds_make_other_folders() -> None:
    root = Path("r")
    assert run_folder(root, recipe(), [], 0).path == root / "toy" / "seed-0"
    assert run_folder(root, recipe(), ["a=1"], 0).path != run_folder(root, recipe(), ["a=2"], 0).path
    assert run_folder(root, recipe(), ["a=1"], 0).path != run_folder(root, recipe(), ["a=1"], 1).path


def test_spelling_of_an_override_does_not_matter(tmp_path: Path) -> None:
    short = run_folder(tmp_path, recipe(), ["training.optimiser.lr=1e-3", "training.epochs=3"], 0)
    long = run_folder(tmp_path, recipe(), ["training.epochs=3", "training.optimiser.lr=0.001"], 0)
    assert short == long


def test_name_and_seed_come_from_the_path(tmp_path: Path) -> None:
    run = run_folder(tmp_path, recipe("net.v2"), ["a=1"], 12)
    assert (run.name, run.seed) == (run.path.parent.name, 12)
    assert RunFolder(tmp_path / "elsewhere").name == "elsewhere"
    assert RunFolder(tmp_path / "elsewhere").seed is None


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".git" / "seed-1").mkdir(parents=True)
    (tmp_path / "toy" / "seed-x").mkdir()
    (tmp_path / "toy" / "seed-2").write_text("a file")
    assert all_runs(tmp_path) == [run]
    assert all_runs(tmp_path / "nowhere") == []
    assert all_runs(tmp_path / "notes.txt") == []


def test_a_folder_stands_for_itself_its_seeds_or_all_below(tmp_path: Path) -> None:
    runs = [trained(tmp_path, recipe(), seed) for seed in (0, 1)] + [trained(tmp_path, recipe("zoo"))]
    assert runs_in(runs[1].path) == [runs[1]]
    assert runs_in(tmp_path / "toy") == runs[:2]
    assert runs_in(tmp_path) == runs


def test_newest_goes_by_the_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished run"):
        newest(tmp_path)
    first, second = trained(tmp_path, recipe(), 0), trained(tmp_path, recipe(), 1)
    unfinished = trained(tmp_path, recipe(), 2)
    unfinished.weights.unlink()
    os.utime(first.weights, (2e9, 2e9))
    os.utime(second.weights, (1e9, 1e9))
    assert newest(tmp_path) == first
    assert not unfinished.finished


def test_imported_models_have_no_recipe(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "kw_mnist" / "seed-0")
    answer(run, question(), "rr")
    assert run.recipe() is None
    assert run.overrides() == []
    assert all_runs(tmp_path) == [run]


def test_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    run = trained(tmp_path, recipe())
    assert run.recipe() == recipe()
    run.recipe_file.write_text("name: toy\nepochs: 3\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        run.recipe()


def test_runs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUST_RUNS_DIR", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("ROBUST_RUNS_DIR", "/some/where")
    assert runs_root() == Path("/some/where")
