"""The adjoint of a strided convolution as a convolution without stride.

y spreads to pixel i = s j - p + t of the input, t < k a tap of the filter. With t = s q + a, all pixels of one phase
a = (i + p) mod s see the same taps, at coarse positions m = j + q:

    x[s m + a - p]  =  sum over q of  y[m - q] w[s q + a]

in either direction. The s^2 phases are the channels of one convolution over Q x Q cells, Q = ceil(k / s), and are then
put in their places. In float32 a CPU has fast kernels for that: two to four times as fast as the transposed convolution
for inputs of few channels, a third faster for sixteen. Its gradients are a strided convolution and its weights'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from robustcli.networks.layers import Conv2d

FEW_CHANNELS = 8  # fewer are put in their places channel by channel, more pixel by pixel


def adjoint(layer: Conv2d, values: Tensor) -> Tensor:
    """The adjoint of a whole convolution, [n, *out_shape] -> [n, *in_shape]."""
    if phased(values):
        return spread(values, layer.weight, layer.stride, layer.padding, layer.in_shape[1:])
    count = len(values)
    values = with_zeros(values, -count % granule(count))
    return layer.adjoint(values.contiguous(memory_format=torch.channels_last))[:count]  # a third faster channels last


def phased(values: Tensor) -> bool:
    """Whether there are fast kernels for convolutions but not for transposed ones."""
    return values.dtype == torch.float32 and values.device.type == "cpu"


def spread(values: Tensor, weight: Tensor, stride: int, padding: int, shape: Sequence[int]) -> Tensor:
    """The adjoint of a convolution: values [N, C, rows, columns] spread to [N, C', *shape]; weight [C, C', k, k]."""
    found: Tensor = _Spread.apply(values, weight, stride, padding, shape)
    return found


@dataclass(frozen=True)
class Phases:
    """The adjoint of a convolution with its filters cut into phases once, for many calls; without gradients in them.

    Args:
        filters: the taps of each phase, last first: [s^2 C', C, Q, Q].
        inputs: C', channels of the convolution's input.
        stride, padding: of the convolution.
        shape: rows and columns of its input.
    """

    filters: Tensor
    inputs: int
    stride: int
    padding: int
    shape: Sequence[int]

    @classmethod
    def of(cls, weight: Tensor, stride: int, padding: int, shape: Sequence[int]) -> Phases:
        """For a convolution's weight [C, C', k, k]."""
        channels, inputs, kernel, _ = weight.shape
        taps = math.ceil(kernel / stride)
        spare = stride * taps - kernel
        cells = F.pad(weight, (0, spare, 0, spare)).view(channels, inputs, taps, stride, taps, stride).flip(2, 4)
        filters = cells.permute(3, 5, 1, 0, 2, 4).reshape(stride**2 * inputs, channels, taps, taps)
        return cls(filters.contiguous(memory_format=torch.channels_last), inputs, stride, padding, shape)

    def __call__(self, values: Tensor) -> Tensor:
        """Values [N, C, rows, columns] spread to [N, C', *shape]."""
        stride, inputs, edge = self.stride, self.inputs, self.padding
        values = values.contiguous(memory_format=torch.channels_last)
        phases = F.conv2d(values, self.filters, padding=self.filters.shape[2] - 1)
        count, _, rows, columns = phases.shape
        if inputs < FEW_CHANNELS:
            cells = phases.contiguous().view(count, stride, stride, inputs, rows, columns)
            found = phases.new_empty(count, inputs, rows, stride, columns, stride)
            found = found.copy_(cells.permute(0, 3, 4, 1, 5, 2)).flatten(4).flatten(2, 3)
        else:
            cells = phases.permute(0, 2, 3, 1).unflatten(3, (stride, stride, inputs))
            found = cells.transpose(2, 3).reshape(count, rows * stride, columns * stride, inputs).permute(0, 3, 1, 2)
        bottom, right = (
            max(0, edge + side - covered) for side, covered in zip(self.shape, found.shape[2:], strict=True)
        )
        found = F.pad(found, (0, right, 0, bottom)) if bottom or right else found
        return found[:, :, edge : edge + self.shape[0], edge : edge + self.shape[1]]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, values: Tensor, weight: Tensor, stride: int, padding: int, shape: Sequence[int]
    ) -> Tensor:
        values = values.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(values, weight)
        ctx.stride, ctx.padding = stride, padding  # type: ignore[attr-defined]
        count = len(values)
        # Compiled convolutions are kept by shape: with row counts of four leading bits their number stays small.
        return Phases.of(weight, stride, padding, shape)(with_zeros(values, -count % granule(count)))[:count]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        values, weight = ctx.saved_tensors
        count, back, own = len(values), None, None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        spare = -count % granule(count)
        gradient, values = with_zeros(gradient, spare), with_zeros(values, spare)
        if ctx.needs_input_grad[0]:
            back = F.conv2d(gradient, weight, None, ctx.stride, ctx.padding)[:count]
        if ctx.needs_input_grad[1]:
            own = conv2d_weight(gradient, weight.shape, values, ctx.stride, ctx.padding)
        return back, own, None, None, None


def granule(count: int) -> int:
    """The power of two that a number with four leading bits is a multiple of."""
    return 1 << max(0, count.bit_length() - 4)


def with_zeros(values: Tensor, spare: int) -> Tensor:
    """Values with so many rows of zeros more."""
    if not spare:
        return values
    rest = values.new_zeros(spare, *values.shape[1:])
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return torch.cat([values, rest.contiguous(memory_format=torch.channels_last) if last else rest])
