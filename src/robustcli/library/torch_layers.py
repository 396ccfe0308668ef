"""What each layer of `torch.nn` is in the layer set of `networks.layers`, at evaluation.

A reader takes a layer and the network as far as it is read, and appends to it, or raises a ValueError that says what is
outside the layer set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustcli.networks.layers import Affine, Normalise, Shape, build_layer


@dataclass
class Growing:
    """A network as far as it is read.

    Args:
        shape: of the values behind the last layer.
        input_shape: of the network's inputs.
        dtype, device: of the weights.
        layers: as `Network.describe` writes them.
        state: their tensors.
    """

    shape: Shape
    input_shape: Shape
    dtype: torch.dtype
    device: torch.device
    layers: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)

    def add(self, layer: dict[str, Any], **tensors: Tensor | None) -> None:
        """Append a layer with its tensors; those that are None keep what a new layer has.

        Raises:
            ValueError: when it does not fit the values before it, or holds numbers that are not finite.
        """
        with torch.device("meta"):
            built = build_layer(layer, self.shape)
        for name, value in built.state_dict().items():
            given = tensors.get(name)
            if given is None:
                given = (torch.ones if name in ("weight", "running_var") else torch.zeros)(value.shape)
            if not bool(given.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinite numbers")
            kept = given.detach().to(self.device, self.dtype).clone(memory_format=torch.contiguous_format)
            self.state[f"layers.{len(self.layers)}.{name}"] = kept
        self.layers.append(layer)
        self.shape = built.out_shape if isinstance(built, Affine) else self.shape


def _linear(layer: nn.Linear, growing: Growing) -> None:
    if len(growing.shape) > 1:
        raise ValueError(f"meets values of shape {list(growing.shape)}; flatten them first (nn.Flatten)")
    growing.add(
        {"type": "linear", "in": layer.in_features, "out": layer.out_features}, weight=layer.weight, bias=layer.bias
    )


def _conv2d(layer: nn.Conv2d, growing: Growing) -> None:
    if _same(layer.dilation, "dilation") != 1 or layer.groups != 1:
        raise ValueError("dilated and grouped convolutions are not in the layer set")
    kernel, stride = _same(layer.kernel_size, "kernel"), _same(layer.stride, "stride")
    if layer.padding == "same" and kernel % 2 == 0:
        raise ValueError("padding 'same' of an even kernel is not the same on both sides")
    named = {"valid": 0, "same": kernel // 2}
    padding = named[layer.padding] if isinstance(layer.padding, str) else _same(layer.padding, "padding")
    if padding and layer.padding_mode != "zeros":
        raise ValueError(f"padding mode {layer.padding_mode!r}; only zeros are in the layer set")
    sizes = {"in": layer.in_channels, "out": layer.out_channels, "kernel": kernel, "stride": stride, "padding": padding}
    growing.add({"type": "conv2d", **sizes}, weight=layer.weight, bias=layer.bias)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, growing: Growing) -> None:
    if layer.running_mean is None:
        raise ValueError("without running statistics its output depends on the batch")
    if growing.shape[0] != layer.num_features or len(growing.shape) != (3 if isinstance(layer, nn.BatchNorm2d) else 1):
        raise ValueError(f"{layer.num_features} channels meet values of shape {list(growing.shape)}")
    growing.add(
        {"type": "batchnorm", "momentum": layer.momentum or 0.1, "guard": layer.eps},
        weight=layer.weight,
        bias=layer.bias,
        running_mean=layer.running_mean,
        running_var=layer.running_var,
    )


def _average(layer: nn.AvgPool2d, growing: Growing) -> None:
    if _same(layer.padding, "padding") or layer.ceil_mode or layer.divisor_override:
        raise ValueError("padding, ceil_mode and divisor_override are not in the layer set")
    _pool(growing, _same(layer.kernel_size, "kernel"), _same(layer.stride, "stride"))


def _adaptive_average(layer: nn.AdaptiveAvgPool2d, growing: Growing) -> None:
    sizes = layer.output_size if isinstance(layer.output_size, tuple) else (layer.output_size,) * 2
    ratios = {side / (size or side) for side, size in zip(growing.shape[1:], sizes, strict=False)}
    if len(ratios) != 1 or not min(ratios).is_integer():
        raise ValueError(f"values of shape {list(growing.shape)} do not divide into equal squares")
    kernel = int(min(ratios))
    _pool(growing, kernel, kernel)


def _pool(growing: Growing, kernel: int, stride: int) -> None:
    if len(growing.shape) != 3:
        raise ValueError(f"meets values of shape {list(growing.shape)}, not channels, rows, columns")
    growing.add({"type": "avgpool2d", "kernel": kernel, "stride": stride})


def _normalise(layer: Normalise, growing: Growing) -> None:
    growing.add(layer.describe(), mean=layer.mean, std=layer.std)


def _relu(layer: nn.ReLU, growing: Growing) -> None:
    if not growing.layers:
        raise ValueError("stands before every other layer; clip the inputs instead")
    if growing.layers[-1]["type"] != "relu":  # the second of two does nothing
        growing.add({"type": "relu"})


def _flatten(layer: nn.Flatten, growing: Growing) -> None:
    dimensions = len(growing.shape) + 1
    first, last = layer.start_dim % dimensions, layer.end_dim % dimensions
    if first >= last and first > 0:
        return
    if (first, last) != (1, dimensions - 1):
        raise ValueError(f"from dimension {first} to {last} of {dimensions}; all but the batch must be flattened")
    growing.add({"type": "flatten"})


def _unflatten(layer: nn.Unflatten, growing: Growing) -> None:
    """Only a view of the inputs: the network then takes them in the new shape."""
    if any(item["type"] != "flatten" for item in growing.layers):
        raise ValueError("is in the layer set only in front of all other layers")
    if len(growing.shape) != 1 or layer.dim not in (1, -1):
        raise ValueError(
            f"dimension {layer.dim!r} of values of shape {list(growing.shape)}; only dimension 1 of vectors"
        )
    sides = cast(tuple[int, ...], tuple(layer.unflattened_size))
    shape = tuple(torch.empty(growing.shape, device="meta").view(sides).shape)
    growing.layers.clear()
    growing.shape = growing.input_shape = shape


def _nothing(layer: nn.Module, growing: Growing) -> None:
    """The identity, at evaluation."""


def _same(value: int | tuple[int, ...], what: str) -> int:
    """The one number that both directions share."""
    both = value if isinstance(value, tuple) else (value,)
    if len(set(both)) > 1:
        raise ValueError(f"{what} {list(both)} differs between rows and columns")
    return both[0]


LAYERS: dict[type[nn.Module], Callable[[Any, Growing], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.ReLU: _relu,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout1d: _nothing,
    nn.Dropout2d: _nothing,
    nn.AlphaDropout: _nothing,
    Normalise: _normalise,
}
"""What each type of layer adds to the network. Types must match exactly: a subclass may do anything."""

TRAINED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
"""Layers that do something else while they are trained."""
