"""Networks as plain arrays: NAME.json (layers in order, input shape, normalisation, origin) and NAME.npz (the weights).

    {"name": "kw_mnist", "weights": "kw_mnist.npz", "input_shape": [1, 28, 28], "num_classes": 10, "normalize": null,
     "layers": [{"type": "conv2d", "in": 1, "out": 16, "kernel": 4, "stride": 2, "padding": 1,
                 "weight": "0.weight", "bias": "0.bias"}, {"type": "relu"}, ...],
     "dataset": "mnist", "source": "...", "license": "MIT", "paper": {"where": "...", "clean_error": 0.018}}

Convolution weights are [out, in, rows, columns], linear weights [out, in], flattening is in the order channels, rows,
columns. `normalize` ({"mean": [...], "std": [...]}) becomes the first layer.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcli.errors import CheckpointError
from robustcli.networks.architectures import recognise
from robustcli.networks.checkpoints import without_storage
from robustcli.networks.network import Network
from robustcli.networks.origin import Origin
from robustcli.norms import NORMS

ARRAYS = ("weight", "bias", "running_mean", "running_var")
NOT_SIZES = (*ARRAYS, "dilation", "groups")
FORMAT_HINT = "a bundle is NAME.json and NAME.npz side by side; see docs/model.md"


def read_bundle(path: Path) -> tuple[Network, Origin]:
    """The network of a plain-array bundle and what its JSON says of its origin.

    Args:
        path: either file of the pair.
    Raises:
        CheckpointError: a file missing or damaged, a layer outside the layer set, an array that does not fit.
    """
    described = path.with_suffix(".json")
    content = _read_json(described)
    try:
        arrays = _read_arrays(described.parent / Path(content["weights"]).name)
        network = _network(content, arrays, described)
        return network, _origin(content)
    except KeyError as error:
        raise CheckpointError(f"{described}: key {error} is missing", FORMAT_HINT) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{described}: {error}", FORMAT_HINT) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}", FORMAT_HINT) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", FORMAT_HINT) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object", FORMAT_HINT)
    return content


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}", FORMAT_HINT) from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or holds more than plain arrays: {error}", FORMAT_HINT) from error


def _network(content: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> Network:
    """The network with its arrays, once every layer is in the layer set and every array fits and is used."""
    shape = [int(side) for side in content["input_shape"]]
    classes = int(content["num_classes"])
    normalise = content.get("normalize")
    first = [{"type": "normalise", "mean": normalise["mean"], "std": normalise["std"]}] if normalise else []
    layers = [*first, *({key: item[key] for key in item if key not in NOT_SIZES} for item in content["layers"])]
    for position, item in enumerate(content["layers"]):
        if item.get("dilation", 1) != 1 or item.get("groups", 1) != 1:
            raise ValueError(f"layer {position}: dilated and grouped convolutions are not in the layer set")
    name = recognise(layers, shape, classes) or str(content["name"])
    description = {"name": name, "input_shape": shape, "layers": layers}
    skeleton = without_storage(description, str(path))
    if skeleton.classes != classes:
        raise ValueError(f"the last layer gives {skeleton.classes} logits, num_classes says {classes}")
    state: dict[str, Tensor] = {}
    for position, item in enumerate(content["layers"], start=len(first)):
        for key in ARRAYS:
            if item.get(key) is not None:
                state[f"layers.{position}.{key}"] = _array(arrays, item[key], path)
    for position, layer in enumerate(layers):
        if layer["type"] == "normalise":
            for key in ("mean", "std"):
                state[f"layers.{position}.{key}"] = _constants(layer[key], shape)
    unused = set(arrays) - {item[key] for item in content["layers"] for key in ARRAYS if item.get(key) is not None}
    if unused:
        raise ValueError(f"array {sorted(unused)[0]} belongs to no layer")
    return filled(skeleton, state, str(path))


def _array(arrays: dict[str, np.ndarray], name: str, path: Path) -> Tensor:
    if name not in arrays:
        raise ValueError(f"array {name} is missing in {path.with_suffix('.npz').name}")
    return torch.from_numpy(arrays[name].astype(np.float32))


def _constants(values: list[float], shape: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, *[1] * (len(shape) - 1))


def filled(skeleton: Network, state: dict[str, Tensor], where: str) -> Network:
    """The network of a skeleton without storage and its tensors; a missing bias is zero.

    Raises:
        CheckpointError: for a missing tensor, a wrong shape, or a number that is not finite; `where` names the file.
    """
    for name, wanted in skeleton.state_dict().items():
        if name not in state and name.endswith(".bias"):
            state[name] = torch.zeros(wanted.shape)
        if name not in state:
            raise CheckpointError(f"{where}: the weights of {name} are missing")
        if state[name].shape != wanted.shape:
            found, right = list(state[name].shape), list(wanted.shape)
            raise CheckpointError(f"{where}: {name} has shape {found}, the architecture wants {right}")
        if not bool(torch.isfinite(state[name]).all()):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite numbers")
    skeleton.load_state_dict(state, assign=True)
    return skeleton.eval()


def _origin(content: dict[str, Any]) -> Origin:
    paper = content.get("paper") or {}
    figures = {key: float(value) for key, value in paper.items() if isinstance(value, int | float)}
    return Origin(
        name=str(content["name"]),
        dataset=content.get("dataset"),
        source=content.get("source"),
        sha256=content.get("source_sha256"),
        licence=content.get("license"),
        norm=content.get("norm_p") if content.get("norm_p") in NORMS else None,
        eps=float(content["eps"]) if content.get("eps") is not None else None,
        figures=figures,
        where=paper.get("where"),
    )
