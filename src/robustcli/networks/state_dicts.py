"""PyTorch state dicts as networks: weights only, never executed, fitted to a named architecture.

A state dict has weights but no strides, paddings or order of ReLUs. These come from a named architecture: the one asked
for, or the only one whose weights have these shapes. Known layouts:

    plain   nn.Sequential and the like; KW's released files (`0.weight`, `2.weight`, `5.weight`, `7.weight`)
    colt    `blocks.layers.N.conv.weight` with a normalisation in front that the file does not hold
    cascade a list of state dicts (KW's models_scaled): one stage is read
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcli.errors import CheckpointError, UsageError
from robustcli.networks import architectures
from robustcli.networks.bundles import filled
from robustcli.networks.checkpoints import without_storage
from robustcli.networks.network import Network

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
NOT_WEIGHTS = ("deepz_lambda", "num_batches_tracked")
BUNDLE_HINT = "write the weights as plain arrays (NAME.json + NAME.npz, see docs/model.md) and import those"
COLT_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
COLT_OTHERS = (0.1307, 0.3081)

Constants = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Target:
    """What the network is for: data set (or None), its input shape and classes (None: guessed from the weights)."""

    dataset: str | None = None
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Layout:
    """A way of naming weights: how to recognise it, and the normalisation its authors put in front."""

    name: str
    recognises: Callable[[Sequence[str]], bool]
    normalisation: Callable[[Target, int], Constants | None]


def _colt_constants(target: Target, channels: int) -> Constants:
    """COLT normalises CIFAR-10 with its own constants and everything else with MNIST's (eth-sri/colt loaders)."""
    if channels == 3 and target.dataset is None:
        raise UsageError("COLT's normalisation depends on the data set", "name it: --dataset cifar10 (or svhn)")
    if target.dataset == "cifar10":
        return COLT_CIFAR
    mean, std = COLT_OTHERS
    return [mean] * channels, [std] * channels


def _is_colt(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"blocks\.layers\.\d+\.(conv|linear)\.(weight|bias)", name) for name in names)


LAYOUTS = (
    Layout("colt", _is_colt, _colt_constants),
    Layout("plain", lambda names: True, lambda target, channels: None),
)


def read_state_dict(
    path: Path,
    target: Target,
    *,
    architecture: str | None = None,
    normalise: Constants | None = None,
    stage: int | None = None,
) -> tuple[Network, list[str]]:
    """The network of a PyTorch (or plain safetensors) state dict.

    Args:
        path: .pt, .pth, .safetensors or any name.
        target: data set, input shape and classes, as far as known.
        architecture: a name; None looks for the one that fits.
        normalise: (mean, std) of a first layer; None takes the layout's.
        stage: which network of a cascade; None: the first.
    Returns:
        the network and notes on what was decided.
    Raises:
        CheckpointError: a file that is missing, damaged, wants to run code, or does not fit.
        UsageError: when no architecture, or more than one, fits.
    """
    state, notes = _tensors(path, stage)
    pairs = _layers(state, path)
    layout = next(layout for layout in LAYOUTS if layout.recognises(list(state)))
    shapes = [tuple(weight.shape) for weight, _ in pairs]
    name, shape, classes = _fit(architecture, target, shapes, path)
    if normalise is None:
        normalise = layout.normalisation(target, shape[0])
    if normalise is not None:
        notes.append(f"first layer: (x - {list(normalise[0])}) / {list(normalise[1])}")
    description = architectures.description(name, shape, classes, normalise=normalise)
    return _with_weights(description, pairs, path), notes


def _tensors(path: Path, stage: int | None) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors of the file, unwrapped, in the file's order."""
    content, notes = _open(path), []
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((key for key in WRAPPERS if key in content), None)
        if inner is None:
            break
        content = content[inner]
    if isinstance(content, list | tuple):
        wanted = stage or 0
        if not 0 <= wanted < len(content):
            raise UsageError(f"{path} holds {len(content)} stages, there is no stage {wanted}")
        notes.append(f"a cascade of {len(content)} networks; stage {wanted} is taken, the others are left out")
        if wanted:
            notes.append("it was trained only on the points that the stages before it leave uncertified")
        content = content[wanted]
    elif stage:
        raise UsageError(f"{path} holds one network, not a cascade", "leave out --stage")
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} does not hold a state dict (names and tensors)", BUNDLE_HINT)
    state = {name.removeprefix("module."): value for name, value in content.items()}
    return {name: value for name, value in state.items() if not name.endswith(NOT_WEIGHTS)}, notes


def _open(path: Path) -> Any:
    """The file's content, by a reader that builds tensors and containers only."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(path.read_bytes())
        with warnings.catch_warnings(action="ignore"):  # on pickle protocols; what is refused is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder, not a file with weights") from error
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            reason = f"it wants to load {wanted[1]}, which weights never need"
        else:
            reason = str(error).partition("\n")[0].partition(". ")[0]
        raise CheckpointError(
            f"{path} is refused: {reason}; files that could run code are not opened",
            f"save it again with torch.save(model.state_dict(), ...), or {BUNDLE_HINT}",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is truncated or not a file of weights: {reason}") from error
    except Exception as error:  # safetensors' own type
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _layers(state: dict[str, Tensor], path: Path) -> list[tuple[Tensor, Tensor | None]]:
    """(weight, bias) of every layer, in the file's order or, where each name has its own number, in that order."""
    weights = [name for name in state if name.endswith("weight")]
    stems = {name: name.removesuffix("weight") for name in weights}
    rest = set(state) - set(weights) - {f"{stem}bias" for stem in stems.values()}
    if rest or not weights:
        odd = f"does not know what to do with {sorted(rest)[0]}" if rest else "found no weights"
        raise CheckpointError(
            f"{path}: only convolutions and linear layers can be read from a state dict; {odd}", BUNDLE_HINT
        )
    first_number = [re.match(r"(\D*)(\d+)", name) for name in weights]
    if all(first_number) and len({match[1] for match in first_number if match}) == 1:
        order = [int(match[2]) for match in first_number if match]
        if len(set(order)) == len(order):
            weights = [name for _, name in sorted(zip(order, weights, strict=True))]
    for name in weights:
        if state[name].dim() not in (2, 4):
            raise CheckpointError(
                f"{path}: {name} has {state[name].dim()} dimensions; only convolutions (4) and linear layers (2) "
                "can be read from a state dict",
                BUNDLE_HINT,
            )
    return [(state[name], state.get(f"{stems[name]}bias")) for name in weights]


def _fit(
    architecture: str | None, target: Target, shapes: list[tuple[int, ...]], path: Path
) -> tuple[str, tuple[int, ...], int]:
    """The architecture, input shape and number of classes with exactly these weight shapes."""
    inputs = [target.input_shape] if target.input_shape else _possible_inputs(shapes[0])
    classes = target.classes or shapes[-1][0]
    names = [architecture] if architecture else [*architectures.names(), *_family_members(shapes)]
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    closest = ""
    for shape in inputs:
        for name in names:
            if architecture is None and architectures.architecture(name).inputs not in (None, shape):
                continue
            try:
                layers = architectures.description(name, shape, classes)["layers"]
            except UsageError as error:
                closest = closest or error.message
                continue
            wanted = _weight_shapes(layers)
            if wanted == shapes:
                found.setdefault(str(layers), (name, shape))
            elif architecture is not None:
                closest = _difference(name, wanted, shapes)
    if len(found) > 1:
        fitting = ", ".join(name for name, _ in found.values())
        raise UsageError(f"{path}: more than one architecture fits: {fitting}", "choose one with --architecture")
    if not found and architecture is not None:
        raise CheckpointError(f"{path} does not hold the architecture {architecture!r}: {closest}")
    if not found:
        listed = "; ".join("x".join(map(str, shape)) for shape in shapes)
        raise UsageError(
            f"{path}: no named architecture has weights {listed}",
            f"name one with --architecture (robust model architectures), or {BUNDLE_HINT}",
        )
    name, shape = next(iter(found.values()))
    return name, shape, classes


def _possible_inputs(first: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Input shapes that a first layer of this shape suggests."""
    if len(first) == 4:
        return [(1, 28, 28), (1, 8, 8)] if first[1] == 1 else [(first[1], 32, 32)]
    images = {shape for shape in ((1, 28, 28), (3, 32, 32), (1, 8, 8)) if math.prod(shape) == first[1]}
    return sorted(images) or [(first[1],)]


def _family_members(shapes: list[tuple[int, ...]]) -> list[str]:
    """Members of the named families that could have these weights; `_fit` checks them."""
    convolutions = [shape for shape in shapes if len(shape) == 4]
    units = [shape[0] for shape in shapes if len(shape) == 2][:-1]
    if not units:
        return []
    last, c = units[-1], [shape[0] for shape in convolutions]
    by_depth: dict[int, Callable[[], list[str]]] = {
        0: lambda: [f"{len(units)}x{last}"],
        2: lambda: [f"convmed-{c[0] // 16}-{c[1] // 32}-{last}", f"ci-2layer-w{c[0] // 4}-fc{last}"],
        3: lambda: [
            f"convmedbig-{c[0] // 16}-{c[1] // 16}-{c[2] // 32}-{last}",
            f"ci-3layer-k{convolutions[0][-1]}-w{c[0] // 4}-fc{last}",
        ],
        4: lambda: [f"ci-4layer-w{c[0] // 4}-fc{last}"],
    }
    members = by_depth.get(len(convolutions), list)()
    return [name for name in members if not re.search(r"[-wx]0\b", name)]


def _weight_shapes(layers: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    kernels = {"linear": lambda item: (), "conv2d": lambda item: (item["kernel"], item["kernel"])}
    return [(item["out"], item["in"], *kernels[item["type"]](item)) for item in layers if item["type"] in kernels]


def _difference(name: str, wanted: list[tuple[int, ...]], shapes: list[tuple[int, ...]]) -> str:
    """Where the file's weights first depart from the architecture's."""
    if len(wanted) != len(shapes):
        return f"it has {len(wanted)} layers with weights, the file {len(shapes)}"
    for number, (want, have) in enumerate(zip(wanted, shapes, strict=True), start=1):
        if want != have:
            return f"weight {number} should be {list(want)}, the file has {list(have)}"
    return f"{name} fits"


def _with_weights(description: dict[str, Any], pairs: list[tuple[Tensor, Tensor | None]], path: Path) -> Network:
    state: dict[str, Tensor] = {}
    remaining = iter(pairs)
    for position, layer in enumerate(description["layers"]):
        prefix = f"layers.{position}"
        if layer["type"] == "normalise":
            view = (-1, *[1] * (len(description["input_shape"]) - 1))
            state |= {
                f"{prefix}.{key}": torch.tensor(layer[key], dtype=torch.float32).view(view) for key in ("mean", "std")
            }
        elif layer["type"] in ("linear", "conv2d"):
            weight, bias = next(remaining)
            state[f"{prefix}.weight"] = weight.float().contiguous()
            if bias is not None:
                state[f"{prefix}.bias"] = bias.float().contiguous()
    return filled(without_storage(description, str(path)), state, str(path))
