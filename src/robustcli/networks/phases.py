"""The adjoint of a strided convolution as a convolution without stride.

y spreads to pixel i = s j - p + t of the input, t < k a tap of the filter. With t = s q + a, all pixels of one phase
a = (i + p) mod s see the same taps, at coarse positions m = j + q:

    x[s m + a - p]  =  sum over q of  y[m - q] w[s q + a]

in either direction. The s^2 phases are the channels of one convolution over Q x Q cells, Q = ceil(k / s), and are then
put in their places. In float32 a CPU has fast kernels for that: two to four times as fast as the transposed convolution
for inputs of few channels, a third faster for sixteen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FEW_CHANNELS = 8  # fewer are put in their places faster one by one


def spread(values: Tensor, weight: Tensor, stride: int, padding: int, shape: Sequence[int]) -> Tensor:
    """The adjoint of a convolution: values [N, C, rows, columns] spread to [N, C', *shape]; weight [C, C', k, k]."""
    taps = math.ceil(weight.shape[2] / stride)
    few = weight.shape[1] < FEW_CHANNELS
    values = values.contiguous(memory_format=torch.contiguous_format if few else torch.channels_last)
    phases = F.conv2d(values, _filters(weight, stride, taps), padding=taps - 1)
    found = phases.unflatten(1, (stride, stride, weight.shape[1]))  # [N, s, s, C', m, m]
    found = (
        _by_channel(found) if few else found.permute(0, 4, 1, 5, 2, 3).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)
    )
    bottom, right = (max(0, padding + side - covered) for side, covered in zip(shape, found.shape[2:], strict=True))
    found = F.pad(found, (0, right, 0, bottom)) if bottom or right else found
    return found[:, :, padding : padding + shape[0], padding : padding + shape[1]]


def _by_channel(phases: Tensor) -> Tensor:
    """[N, s, s, C, rows, columns] -> [N, C, s rows, s columns]."""
    lines = torch.stack(phases.unbind(2), -1).flatten(4)
    return torch.stack(lines.unbind(1), 3).flatten(2, 3)


def _filters(weight: Tensor, stride: int, taps: int) -> Tensor:
    """[C, C', k, k] -> [s^2 C', C, Q, Q]: the taps of each phase, last first."""
    channels, inputs, kernel, _ = weight.shape
    spare = stride * taps - kernel
    cells = F.pad(weight, (0, spare, 0, spare)).view(channels, inputs, taps, stride, taps, stride).flip(2, 4)
    return cells.permute(3, 5, 1, 0, 2, 4).reshape(stride**2 * inputs, channels, taps, taps)
