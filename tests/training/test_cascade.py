"""Cascades of networks: who answers, what counts, and that every stage learns from what is left."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcli.data.datasets import load as load_split
from robustcli.networks.checkpoints import load
from robustcli.results.runs import all_runs

SCRIPT = Path(__file__).parents[2] / "scripts" / "cascade.py"


@pytest.fixture(scope="module")
def cascade() -> ModuleType:
    described = importlib.util.spec_from_file_location("cascade", SCRIPT)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules["cascade"] = module  # where dataclasses look for it
    described.loader.exec_module(module)
    return module


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), stages=st.integers(1, 4))
def test_figures_are_those_of_a_walk_through_the_stages(cascade: ModuleType, seed: int, stages: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (20,), generator=generator)
    answers = [
        cascade.Answers(torch.randint(3, (20,), generator=generator), torch.rand(20, generator=generator) < 0.4)
        for _ in range(stages)
    ]
    wrong, open_, counts = 0, 0, [0] * stages
    for point, label in enumerate(labels.tolist()):
        sure = [number for number in range(stages) if bool(answers[number].certified[point])]
        number = sure[0] if sure else stages - 1
        right = int(answers[number].predicted[point]) == label
        wrong, open_ = wrong + (not right), open_ + (not right or not sure)
        counts[number] += 1
    found = cascade.figures(answers, labels)
    assert found == {"error": wrong / 20, "robust_error": open_ / 20, "answers": counts}


def test_stages_learn_from_what_is_left(cascade: ModuleType, tmp_path: Path) -> None:
    asked = ["--recipe", "digits-fc-kw-linf", "--stages", "2", "--images", "600", "--points", "200", "--threads", "1"]
    asked += ["--set", "training.epochs=6", "--set", "method.ramp_epochs=3", "--device", "cpu"]
    asked += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "cascade.json")]
    cascade.main(asked)
    document = json.loads((tmp_path / "cascade.json").read_text())
    first, second = document["cascades"]
    assert first["trained_on"] == 600
    assert 0 < second["trained_on"] < 600
    assert first["answers"] == [200]
    assert second["answers"][0] < 200
    assert sum(second["answers"]) == 200
    (run,) = all_runs(tmp_path / "runs" / "digits-fc-kw-linf" / "stage-1" / "runs")
    exact = load(run.weights).network.double()
    split = load_split("digits", "test")
    wrong = exact(split.points(range(200), dtype=torch.float64)).argmax(1) != split.labels_tensor(range(200))
    assert float(wrong.double().mean()) == pytest.approx(first["error"])
    cascade.main(asked)
    assert json.loads((tmp_path / "cascade.json").read_text())["cascades"] == document["cascades"]
