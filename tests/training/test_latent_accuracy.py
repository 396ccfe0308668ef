"""The latent analysis of 002's Fig. 3: every stage, every layer, between what is certified and what is classified."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.data.datasets import load as load_split
from robustcli.errors import UsageError
from robustcli.networks.checkpoints import load
from robustcli.networks.network import margin_rows, margins
from robustcli.training.runs import train
from tests.training.test_stages import recipe
from tests.training.tiny import Watch, few_rows, request

SCRIPT = Path(__file__).parents[2] / "scripts" / "latent_accuracy.py"


@pytest.fixture
def script() -> ModuleType:
    described = importlib.util.spec_from_file_location("latent_accuracy", SCRIPT)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def test_every_layer_lies_between_the_certified_and_the_clean_accuracy(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_rows(monkeypatch)
    run = train(request(tmp_path, recipe(epochs=12, method={"mix_epochs": 2})), Watch(), print).run
    out = tmp_path / "latent.json"
    script.main([str(run.path), "--points", "60", "--steps", "10", "--step-size", "0.2", "--batch", "25", "--eps",
                 "0.05", "--out", str(out)])  # fmt: skip
    document = json.loads(out.read_text())
    assert (document["eps"], document["points"], list(document["accuracy"])) == (0.05, 60, ["1", "2", "3"])
    split = load_split("digits", "test")
    index = range(60)
    points, labels = split.points(index, dtype=torch.float64), split.labels_tensor(index)
    for number, path in enumerate([run.stage_weights(1), run.stage_weights(2), run.weights], 1):
        network = load(path).network.double()
        assert document["models"][number - 1] == load(path).network.weights_hash()
        clean = float((margins(network(points), labels) > 0).double().mean())
        rows, _ = margin_rows(labels, 10, torch.float64)
        proved = dual(network, Ball.around(points, 0.05, math.inf, (0.0, 1.0)), rows).margins
        certified = float((proved > 0).all(1).double().mean())
        found = document["accuracy"][str(number)]
        assert len(found) == 3
        assert all(certified <= value <= clean for value in found)
        assert clean > certified


def test_a_folder_without_networks_is_an_error(tmp_path: Path, script: ModuleType) -> None:
    with pytest.raises(UsageError, match="holds no trained network"):
        script.main([str(tmp_path)])
