"""Plain-array bundles: a JSON and an npz written here by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustcli.errors import CheckpointError
from robustcli.networks.bundles import read_bundle

Content = dict[str, Any]
Arrays = dict[str, np.ndarray]


def parts() -> tuple[Content, Arrays]:
    layers = [
        {"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "stride": 2, "padding": 1, "dilation": 1, "groups": 1},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 8, "out": 3},
    ]
    layers[0] |= {"weight": "0.weight", "bias": "0.bias"}
    layers[3] |= {"weight": "3.weight", "bias": "3.bias"}
    content = {
        "name": "tiny",
        "weights": "tiny.npz",
        "members": None,
        "input_shape": [1, 4, 4],
        "num_classes": 3,
        "normalize": {"mean": [0.1], "std": [0.3]},
        "layers": layers,
        "source": "somewhere",
        "source_sha256": "ab",
        "dataset": "mnist",
        "norm_p": "linf",
        "eps": 0.1,
        "license": "MIT",
        "paper": {"where": "Table 1", "clean_error": 0.018},
    }
    random = np.random.default_rng(0)
    shapes = {"0.weight": (2, 1, 3, 3), "0.bias": (2,), "3.weight": (3, 8), "3.bias": (3,)}
    return content, {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, content: Content, arrays: Arrays) -> Path:
    (folder / "tiny.json").write_text(json.dumps(content))
    np.savez(folder / "tiny.npz", **arrays)
    return folder / "tiny.json"


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_the_bundle_computes_what_its_arrays_say(tmp_path: Path, suffix: str) -> None:
    content, arrays = parts()
    network, origin = read_bundle(write(tmp_path, content, arrays).with_suffix(suffix))
    x = torch.rand(5, 1, 4, 4)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    hidden = torch.conv2d((x - 0.1) / 0.3, tensors["0.weight"], tensors["0.bias"], 2, 1).relu().flatten(1)
    torch.testing.assert_close(network(x), hidden @ tensors["3.weight"].T + tensors["3.bias"])
    assert (origin.name, origin.dataset, origin.licence, origin.clean_error) == ("tiny", "mnist", "MIT", 0.018)
    assert (origin.norm, origin.eps) == ("linf", 0.1)


def test_a_known_architecture_is_named(tmp_path: Path) -> None:
    layers = [{"type": "linear", "in": 4, "out": 9, "weight": "a"}, {"type": "relu"}]
    layers.append({"type": "linear", "in": 9, "out": 2, "weight": "b"})
    content = parts()[0] | {"input_shape": [4], "num_classes": 2, "normalize": None, "layers": layers}
    arrays = {"a": np.ones((9, 4), np.float32), "b": np.ones((2, 9), np.float32)}
    network, _ = read_bundle(write(tmp_path, content, arrays))
    assert network.name == "1x9"
    assert not network.layers[0].bias.any()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, a: c.pop("layers"), "'layers' is missing"),
        (lambda c, a: c.update(layers=[]), "does not hold together"),
        (lambda c, a: c["layers"][0].update(groups=2), "grouped"),
        (lambda c, a: c["layers"][0].update(dilation=2), "dilated"),
        (lambda c, a: c["layers"][1].update(type="tanh"), "not in the layer set"),
        (lambda c, a: c["layers"][3].update({"in": 9}), "does not hold together"),
        (lambda c, a: c.update(num_classes=4), "3 logits"),
        (lambda c, a: a.pop("0.weight"), r"array 0\.weight is missing"),
        (lambda c, a: a.update(more=np.ones(1)), "belongs to no layer"),
        (lambda c, a: a.update({"0.bias": np.ones(3)}), "has shape"),
        (lambda c, a: a.update({"0.bias": np.full(2, np.nan)}), "NaN"),
        (lambda c, a: c.update(weights="other.npz"), "there is no"),
        (lambda c, a: c.update(weights="../../tiny.npz", normalize={"mean": [0.0], "std": [0.0]}), "positive"),
        (lambda c, a: a.pop(c["layers"][0].pop("weight")), r"layers\.1\.weight are missing"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Callable[..., object], words: str) -> None:
    content, arrays = parts()
    change(content, arrays)
    with pytest.raises(CheckpointError, match=words):
        read_bundle(write(tmp_path, content, arrays))


def test_arrays_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    content, arrays = parts()
    path = write(tmp_path, content, arrays | {"0.bias": np.array([Runs()], dtype=object)})
    with pytest.raises(CheckpointError, match="more than plain arrays"):
        read_bundle(path)
    assert not (tmp_path / "ran").exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = write(tmp_path, *parts())
    whole = path.with_suffix(".npz").read_bytes()
    path.with_suffix(".npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_bundle(path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_bundle(path)
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_bundle(path)
    with pytest.raises(CheckpointError, match="there is no"):
        read_bundle(tmp_path / "none.json")
