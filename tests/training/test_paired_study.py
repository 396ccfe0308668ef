"""The paired study: same seeds and points for both variants, differences by hand, going on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustcli.bounds.dual import dual
from robustcli.data.datasets import load as load_split
from robustcli.networks.checkpoints import load
from robustcli.results.runs import all_runs
from robustcli.training.held_out import certified_errors

SCRIPT = Path(__file__).parents[2] / "scripts" / "paired_study.py"


@pytest.fixture
def study() -> ModuleType:
    described = importlib.util.spec_from_file_location("paired_study", SCRIPT)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def asked(study: ModuleType, folder: Path, change: str, seeds: str) -> dict[str, Any]:
    out = folder / "study.json"
    fixed = ["--recipe", "digits-fc-kw-linf", "--images", "160", "--points", "60", "--threads", "1", "--device", "cpu"]
    for each in ("training.epochs=3", "method.ramp_epochs=1", "training.batch_size=32"):
        fixed += ["--set", each]
    study.main([*fixed, "--with", change, "--seeds", seeds, "--runs", str(folder / "runs"), "--out", str(out)])
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def test_differences_are_those_of_the_stored_networks(study: ModuleType, tmp_path: Path) -> None:
    document = asked(study, tmp_path, "method.tightness={distance: 5, warmup_epochs: 0}", "0-1")
    assert [pair["seed"] for pair in document["pairs"]] == [0, 1]
    split, errors = load_split("digits", "test"), {}
    for run in all_runs(tmp_path / "runs"):
        assert "training.held_out=1137" in run.overrides()
        network = load(run.weights).network
        found = certified_errors(network, split, range(60), {"linf": 0.1}, bound=dual)
        errors[run.seed, any("tightness" in text for text in run.overrides())] = found["linf"]
    wanted = [errors[seed, True] - errors[seed, False] for seed in (0, 1)]
    told = document["difference"]["certified_error"]
    assert told["values"] == pytest.approx(wanted)
    assert told["mean"] == pytest.approx(statistics.fmean(wanted))
    assert told["sd"] == pytest.approx(statistics.stdev(wanted))
    assert told["sd_of_mean"] == pytest.approx(statistics.stdev(wanted) / math.sqrt(2))
    assert all(value < 0 for value in document["difference"]["r"]["values"])
    assert document["points"] == 60


def test_no_change_makes_no_difference_and_runs_are_kept(study: ModuleType, tmp_path: Path) -> None:
    first = asked(study, tmp_path, "method.tightness={gap: 0, warmup_epochs: 3}", "0")
    assert [first["difference"][name]["mean"] for name in ("certified_error", "test_error", "d", "r")] == [0, 0, 0, 0]
    assert first["pairs"][0]["base"]["model"] == first["pairs"][0]["changed"]["model"]
    assert first["difference"]["d"]["sd"] is None
    written = {run.weights: run.weights.stat().st_mtime_ns for run in all_runs(tmp_path / "runs")}
    second = asked(study, tmp_path, "method.tightness={gap: 0, warmup_epochs: 3}", "0-1")
    assert second["pairs"][0] == first["pairs"][0]
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
