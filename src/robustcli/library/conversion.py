"""A `torch.nn.Sequential` as a `Network`: read layer by layer, refused by name, and compared on random points."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from robustcli.errors import CheckpointError, UsageError, one_line
from robustcli.library.torch_layers import LAYERS, TRAINED, Growing
from robustcli.networks.architectures import recognise
from robustcli.networks.bundles import filled
from robustcli.networks.layers import Shape
from robustcli.networks.network import Network

PRECISIONS = (torch.float32, torch.float64)
CHECKED = 8  # random points
AGREES = 1e-9  # of the largest logit: float64 sums in another order


def convert(model: nn.Module, shape: Sequence[int]) -> Network:
    """The same classifier as a `Network`, in evaluation mode, with copies of its weights.

    Args:
        model: an `nn.Sequential`, nested as deep as you like, whose last layer gives K >= 2 logits; float32 or float64,
            on any device. A `Network` is returned as it is.
        shape: of one input, without the batch: (3, 32, 32).
    Returns:
        the network, in the precision and on the device of the model. Its `input_shape` is `shape`, or what a first
        `nn.Unflatten` makes of it.
    Raises:
        UsageError: for a layer outside the layer set, named as in `model.named_modules()`; for shapes that do not fit;
            for a network whose logits are not those of the model.
    """
    shape = tuple(int(side) for side in shape)
    if isinstance(model, Network):
        if model.input_shape != shape:
            raise UsageError(f"the network takes inputs of shape {list(model.input_shape)}, not {list(shape)}")
        return model
    if not _plain(model):
        raise UsageError(
            f"{type(model).__name__} is not an nn.Sequential",
            "only a sequence of layers can be read: write the model as one, or pass the part of it that is one",
        )
    layers = list(_flat(model, ""))
    growing = Growing(shape, shape, *_kind(model))
    for name, layer in layers:
        try:
            LAYERS[type(layer)](layer, growing)
        except ValueError as error:
            raise UsageError(f"{name}: {type(layer).__name__}: {error}") from error
    network = _built(growing)
    with torch.random.fork_rng(devices=[]):  # float64 copies are initialised before they are filled
        _compare(model, network, shape)
    return network


def _kind(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Precision and device of all weights."""
    weights = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    for name, value in weights.items():
        if value.dtype not in PRECISIONS:
            raise UsageError(f"{name} is {value.dtype}", "convert the model first: model.float()")
    kinds = {(value.dtype, value.device) for value in weights.values()}
    if len(kinds) != 1:
        listed = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
        raise UsageError(f"the weights must be of one precision and on one device, found: {listed}")
    return kinds.pop()


def _plain(module: nn.Module) -> bool:
    """Whether a module does nothing but ask its children in turn."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _flat(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """All layers in order, with their full names; a layer that stands twice is given twice.

    Raises:
        UsageError: for one that is not in `LAYERS`, or does not do what its type says.
    """
    for name, layer in model._modules.items():
        assert layer is not None
        if _plain(layer):
            yield from _flat(layer, f"{prefix}{name}.")
            continue
        kind = type(layer).__name__
        if type(layer) not in LAYERS:
            raise UsageError(f"{prefix}{name}: {kind} is not in the layer set", _hint(kind))
        if layer.training and isinstance(layer, TRAINED):
            raise UsageError(
                f"{prefix}{name}: {kind} is in training mode, where its output depends on the batch or on chance",
                "certificates are about evaluation: call model.eval() first",
            )
        yield f"{prefix}{name}", layer


def _hint(kind: str) -> str:
    known = f"known: {', '.join(sorted({layer.__name__ for layer in LAYERS}))}"
    if "Softmax" in kind:
        return "leave it out: it does not change which logit is the largest"
    if "Normal" in kind:
        return f"give its constants as inputs=Normalised(mean, std) and leave it out; {known}"
    if kind.startswith("Parametrized"):
        return "torch.nn.utils.parametrize.remove_parametrizations makes its weights plain"
    return known


def _built(growing: Growing) -> Network:
    description = {"name": "custom", "input_shape": list(growing.input_shape), "layers": growing.layers}
    try:
        with torch.device("meta"):
            skeleton = Network.from_description(description)
        if skeleton.classes < 2:
            raise ValueError("a classifier has at least two logits")
        skeleton.name = recognise(growing.layers, growing.input_shape, skeleton.classes) or "custom"
        return filled(skeleton, growing.state, "the model")
    except (ValueError, CheckpointError) as error:
        raise UsageError(f"the model is no classifier of the layer set: {error}") from error


def _compare(model: nn.Module, network: Network, shape: Shape) -> None:
    """Both forwards in float64 on random points."""
    points = torch.randn(CHECKED, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points.to(network.device)
    with torch.no_grad():
        ours = network.double()(points.view(-1, *network.input_shape))
        try:
            theirs = copy.deepcopy(model).double()(points)
        except RuntimeError as error:
            raise UsageError(f"the model does not run on inputs of shape {list(shape)}: {one_line(error)}") from error
    scale = ours.abs().max()
    if theirs.shape != ours.shape or not bool(((theirs - ours).abs() <= AGREES * scale).all()):
        raise UsageError(
            "the converted network does not give the logits of the model",
            "hooks and parametrizations are not followed: remove them",
        )
