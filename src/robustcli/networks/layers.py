"""The closed layer set: every affine layer knows its forward map, its adjoint, its entrywise magnitude and its shapes.

    forward(x)   = W x + b          [N, *in_shape]  -> [N, *out_shape]
    linear(x)    = W x              [N, *in_shape]  -> [N, *out_shape]
    adjoint(y)   = W^T y            [N, *out_shape] -> [N, *in_shape]
    magnitude(x) = |W| x            [N, *in_shape]  -> [N, *out_shape], entrywise absolute weights
    describe()   = the layer as a JSON object, without its weights

Shapes are per example, without the batch. A network is a sequence of these layers and ReLUs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]


class Affine(nn.Module, ABC):
    """A layer x -> W x + b with a known input and output shape."""

    in_shape: Shape
    out_shape: Shape

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def linear(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor: ...

    @abstractmethod
    def magnitude(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]: ...

    @property
    def fan_in(self) -> int:
        """Products summed for one output (the depth of rounding in it)."""
        return 1

    @property
    def fan_out(self) -> int:
        """Products summed by the adjoint for one input, at most."""
        return 1

    def offset_size(self, like: Tensor) -> Tensor:
        """Sum of the absolute values that b is made of, in the precision of `like`: [1, *out_shape], at least |b|."""
        return self(like.new_zeros(1, *self.in_shape)).abs()


class Linear(Affine):
    """Fully connected: weight [out, in], bias [out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__((inputs,), (outputs,))
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.weight

    def magnitude(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.abs())

    @property
    def fan_in(self) -> int:
        return self.in_shape[0]

    @property
    def fan_out(self) -> int:
        return self.out_shape[0]

    def describe(self) -> dict[str, Any]:
        return {"type": "linear", "in": self.in_shape[0], "out": self.out_shape[0]}


class Conv2d(Affine):
    """Two-dimensional convolution with zero padding: weight [out, in, k, k], bias [out].

    The adjoint needs an output padding whenever the stride does not divide the padded size (k5 s2 p2 on 28 rows).
    """

    def __init__(self, in_shape: Sequence[int], channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        inputs, height, width = in_shape
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        if rows < 1 or columns < 1:
            raise ValueError(f"a {kernel}x{kernel} kernel does not fit an input of {height}x{width}")
        super().__init__(in_shape, (channels, rows, columns))
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.output_padding = tuple(
            side - ((out - 1) * stride - 2 * padding + kernel) for side, out in ((height, rows), (width, columns))
        )
        self.weight = nn.Parameter(torch.empty(channels, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def linear(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride, self.padding)

    def adjoint(self, y: Tensor) -> Tensor:
        return F.conv_transpose2d(y, self.weight, None, self.stride, self.padding, self.output_padding)

    def magnitude(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.abs(), None, self.stride, self.padding)

    @property
    def fan_in(self) -> int:
        return self.in_shape[0] * self.kernel**2

    @property
    def fan_out(self) -> int:
        return self.out_shape[0] * self.kernel**2

    def describe(self) -> dict[str, Any]:
        sizes = {"kernel": self.kernel, "stride": self.stride, "padding": self.padding}
        return {"type": "conv2d", "in": self.in_shape[0], "out": self.out_shape[0], **sizes}


class Diagonal(Affine):
    """A layer that scales and shifts each channel (or feature) on its own."""

    @abstractmethod
    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, broadcastable to one example."""

    def linear(self, x: Tensor) -> Tensor:
        return x * self.scale_shift()[0]

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.scale_shift()[0]

    def magnitude(self, x: Tensor) -> Tensor:
        return x * self.scale_shift()[0].abs()


class Normalise(Diagonal):
    """(x - mean) / std per channel, constants of the network: never a silent preprocessing step."""

    mean: Tensor
    std: Tensor

    def __init__(self, in_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(in_shape, in_shape)
        if not all(s > 0 for s in std):
            raise ValueError("every standard deviation must be positive")
        view = (-1, *[1] * (len(self.in_shape) - 1))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(view))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(view))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        return 1 / self.std, -self.mean / self.std

    def describe(self) -> dict[str, Any]:
        return {"type": "normalise", "mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


class BatchNorm(Diagonal):
    """Batch normalisation per channel or feature; affine (running statistics) at evaluation."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, in_shape: Sequence[int], momentum: float = 0.1, guard: float = 1e-5) -> None:
        super().__init__(in_shape, in_shape)
        channels = self.in_shape[0]
        self.momentum, self.guard = momentum, guard
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.guard
        )

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        view = (-1, *[1] * (len(self.in_shape) - 1))
        scale = self.weight / (self.running_var + self.guard).sqrt()
        return scale.view(view), (self.bias - self.running_mean * scale).view(view)

    def offset_size(self, like: Tensor) -> Tensor:
        scale, _ = self.scale_shift()
        parts = self.bias.abs().view(scale.shape) + (self.running_mean.view(scale.shape) * scale).abs()
        return parts.expand(1, *self.out_shape)

    def describe(self) -> dict[str, Any]:
        return {"type": "batchnorm", "momentum": self.momentum, "guard": self.guard}


class AvgPool2d(Affine):
    """Average pooling without padding."""

    def __init__(self, in_shape: Sequence[int], kernel: int, stride: int | None = None) -> None:
        self_stride = kernel if stride is None else stride
        channels, height, width = in_shape
        super().__init__(
            in_shape, (channels, (height - kernel) // self_stride + 1, (width - kernel) // self_stride + 1)
        )
        self.kernel, self.stride = kernel, self_stride

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel, self.stride)

    def linear(self, x: Tensor) -> Tensor:
        return self(x)

    def adjoint(self, y: Tensor) -> Tensor:
        channels, height, width = self.in_shape
        _, rows, columns = self.out_shape
        one = y.new_full((1, 1, self.kernel, self.kernel), 1 / self.kernel**2)
        spare = tuple(
            side - ((out - 1) * self.stride + self.kernel) for side, out in ((height, rows), (width, columns))
        )
        spread = F.conv_transpose2d(y.reshape(-1, 1, rows, columns), one, None, self.stride)
        return F.pad(spread, (0, spare[1], 0, spare[0])).view(-1, channels, height, width)

    def magnitude(self, x: Tensor) -> Tensor:
        return self(x)

    @property
    def fan_in(self) -> int:
        return self.kernel**2

    @property
    def fan_out(self) -> int:
        return self.kernel**2

    def describe(self) -> dict[str, Any]:
        return {"type": "avgpool2d", "kernel": self.kernel, "stride": self.stride}


class Flatten(Affine):
    """Channels, rows, columns -> one vector, in this (torch's) order."""

    def __init__(self, in_shape: Sequence[int]) -> None:
        super().__init__(in_shape, (math.prod(in_shape),))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def linear(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.view(-1, *self.in_shape)

    def magnitude(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def describe(self) -> dict[str, Any]:
        return {"type": "flatten"}


class ReLU(nn.Module):
    """max(x, 0), the only non-linearity."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def describe(self) -> dict[str, Any]:
        return {"type": "relu"}


def build_layer(description: dict[str, Any], in_shape: Shape) -> Affine | ReLU:
    """The layer that `describe()` wrote, for inputs of `in_shape`.

    Raises:
        ValueError: for an unknown type or sizes that do not fit.
    """
    match description:
        case {"type": "relu"}:
            return ReLU()
        case {"type": "flatten"}:
            return Flatten(in_shape)
        case {"type": "linear", "in": inputs, "out": outputs}:
            if in_shape != (inputs,):
                raise ValueError(f"a linear layer for {inputs} inputs meets inputs of shape {list(in_shape)}")
            return Linear(inputs, outputs)
        case {"type": "conv2d", "in": inputs, "out": channels, "kernel": kernel, **rest}:
            if len(in_shape) != 3 or in_shape[0] != inputs:
                raise ValueError(f"a convolution of {inputs} channels meets inputs of shape {list(in_shape)}")
            if rest.get("dilation", 1) != 1 or rest.get("groups", 1) != 1:
                raise ValueError("dilated and grouped convolutions are not in the layer set")
            return Conv2d(in_shape, channels, kernel, rest.get("stride", 1), rest.get("padding", 0))
        case {"type": "normalise", "mean": mean, "std": std}:
            return Normalise(in_shape, mean, std)
        case {"type": "batchnorm", **rest}:
            return BatchNorm(in_shape, rest.get("momentum", 0.1), rest.get("guard", 1e-5))
        case {"type": "avgpool2d", "kernel": kernel, **rest}:
            return AvgPool2d(in_shape, kernel, rest.get("stride"))
    raise ValueError(f"layer {description.get('type', description)!r} is not in the layer set")
