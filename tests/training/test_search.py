"""The search for settings: ranked on held-out rows, going on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustcli.data.datasets import load as load_split
from robustcli.networks.checkpoints import load
from robustcli.results.runs import all_runs
from robustcli.training.held_out import certified_errors

SCRIPT = Path(__file__).parents[2] / "scripts" / "search_interval.py"


@pytest.fixture
def search() -> ModuleType:
    described = importlib.util.spec_from_file_location("search_interval", SCRIPT)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def asked(search: ModuleType, folder: Path, *more: str) -> dict[str, Any]:
    out = folder / "search.json"
    fixed = ["--recipe", "digits-fc-ibp-union", "--held-out", "120", "--threads", "1", "--device", "cpu"]
    changes = ["training.epochs=2", "method.ramp.epochs=1", "eps={l1: 0.2, l2: 0.1, linf: 0.01}"]
    fixed += [part for change in changes for part in ("--set", change)]
    search.main([*fixed, "--runs", str(folder / "runs"), "--out", str(out), *more])
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def test_combinations_are_trained_once_and_ranked_on_the_rows_kept_out(search: ModuleType, tmp_path: Path) -> None:
    grid = ("--try", "training.optimiser.lr=1e-5,5e-3")
    document = asked(search, tmp_path, *grid, "--seeds", "0,1")
    assert len(document["runs"]) == 4
    means = [mean["union"] for mean in document["ranking"]]
    assert len(means) == 2
    assert means == sorted(means)
    assert means[0] < means[-1]
    assert not any("test" in key for answer in document["runs"] for key in answer["held_out"])
    written = {run.weights: run.weights.stat().st_mtime_ns for run in all_runs(tmp_path / "runs")}
    assert len(written) == 4
    again = asked(search, tmp_path, *grid, "--seeds", "0,1")
    assert again["ranking"] == document["ranking"]
    assert written == {run.weights: run.weights.stat().st_mtime_ns for run in all_runs(tmp_path / "runs")}


def test_figures_of_the_same_commit_and_question_are_taken_over(
    search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search.provenance, "commit", lambda: "1a2b")
    found = asked(search, tmp_path)["runs"][0]["held_out"]

    def altered(*more: str) -> bool:
        """Whether a figure that only the document holds comes back."""
        out = tmp_path / "search.json"
        document = json.loads(out.read_text())
        document["runs"][0]["held_out"] = found | {"union": 2.0}
        out.write_text(json.dumps(document))
        return bool(asked(search, tmp_path, *more)["runs"][0]["held_out"]["union"] == 2.0)

    assert altered()
    assert not altered("--points", "50")
    assert not altered()  # the document is now of 50 rows
    monkeypatch.setattr(search.provenance, "commit", lambda: "3c4d")
    assert not altered()
    assert altered()
    for unsure in ("3c4d+changes", None):
        monkeypatch.setattr(search.provenance, "commit", lambda unsure=unsure: unsure)
        assert not altered()
    (tmp_path / "search.json").write_text("[1, 2")
    assert asked(search, tmp_path)["runs"][0]["held_out"] == found


def test_grids_that_meet_share_a_run(search: ModuleType) -> None:
    name, own, other = "digits-fc-ibp-union", "method.eps_factor=1", "method.eps_factor=1.5"
    short = ["method.ramp.epochs=1", "training.epochs=2"]
    assert search.telling(name, [*short, own]) == short
    assert search.telling(name, [other, *short, other]) == [other, *short]


def test_figures_are_those_of_the_last_training_rows(search: ModuleType, tmp_path: Path) -> None:
    document = asked(search, tmp_path, "--points", "50")
    (run,) = all_runs(tmp_path / "runs")
    split = load_split("digits", "train")
    index = range(len(split) - 120, len(split) - 70)
    expected = certified_errors(load(run.weights).network, split, index, document["eps"])
    found = dict(document["runs"][0]["held_out"])
    assert 0 <= found.pop("error") <= found["union"]
    assert found == pytest.approx(expected)
    assert document["points"] == 50


def test_a_sample_of_the_grid_and_axes_that_are_none(search: ModuleType) -> None:
    options = search.arguments(["--recipe", "x", "--try", "a=1,2,3", "--try", "b=1,2", "--sample", "4"])
    chosen = search.combinations(options)
    assert len({tuple(one) for one in chosen}) == 4
    assert all(one[0] in ("a=1", "a=2", "a=3") and one[1] in ("b=1", "b=2") for one in chosen)
    options = search.arguments(["--recipe", "x", "--try", "a={b: 1, c: [2, 3]},{b: 2},[4, 5],6"])
    assert search.combinations(options) == [["a={b: 1, c: [2, 3]}"], ["a={b: 2}"], ["a=[4, 5]"], ["a=6"]]
    with pytest.raises(search.UsageError, match="key=a,b"):
        search.combinations(search.arguments(["--recipe", "x", "--try", "a"]))


def test_complete_verification_leaves_no_more_open_than_its_cheapest_bound(search: ModuleType, tmp_path: Path) -> None:
    (by_bound,) = asked(search, tmp_path, "--points", "30")["ranking"]
    document = asked(search, tmp_path, "--points", "30", "--complete", "20")
    (complete,) = document["ranking"]
    assert document["bound"] == "complete, 20 s a point"
    for norm in ("l1", "l2", "linf", "union"):
        assert complete["error"] <= complete[norm] <= by_bound[norm]
    assert complete["union"] < by_bound["union"]
    assert complete["union"] >= max(complete[norm] for norm in ("l1", "l2", "linf"))
