"""Blocks of one convolution or linear layer with scaling layers around it, as that layer alone with scaled weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.layers import Affine, Conv2d, Diagonal, Flatten, Linear, Shape
from robustcli.networks.network import Block


@dataclass(frozen=True)
class Convolution:
    """A zero-padded convolution: weight [O, I, k, k], differentiable in the block's weights; the bias left aside."""

    weight: Tensor
    stride: int
    padding: int
    in_shape: Shape
    out_shape: Shape

    @property
    def kernel(self) -> int:
        """k."""
        return self.weight.shape[2]

    @property
    def overlaps(self) -> bool:
        """Whether neighbouring filters touch or overlap, so that windows of the layers above have no holes."""
        return self.kernel >= self.stride

    def adjoint_unordered(self, rows: Tensor) -> Tensor:
        """W^T applied to rows [n, *out_shape], the entries of each result in another order: [n, d].

        For norms. Pixel s i + a of the input takes W[u] y[i + e] with u = a + padding - s e, so the s x s pixels around
        every position are channels of one plain convolution; transposed convolutions into few channels are slower.
        """
        s, k = self.stride, self.kernel
        first, last = -((k - 1 - self.padding) // s), (s - 1 + self.padding) // s
        if s == 1 or any(out * s != side for side, out in zip(*self._sides(), strict=True)) or first + last:
            spare = [side - ((out - 1) * s - 2 * self.padding + k) for side, out in zip(*self._sides(), strict=True)]
            return F.conv_transpose2d(rows, self.weight, None, s, self.padding, spare).flatten(1)
        a, e = torch.arange(s).view(-1, 1), torch.arange(first, last + 1)
        tap = (a + self.padding - s * e).to(rows.device)
        chosen, present = tap.clamp(0, k - 1), ((tap >= 0) & (tap < k)).to(rows.dtype)
        kernel = self.weight[:, :, chosen][:, :, :, :, chosen] * present.view(s, -1, 1, 1) * present
        found = F.conv2d(rows, kernel.permute(1, 2, 4, 0, 3, 5).flatten(0, 2), None, 1, last)
        last_channels = found.is_contiguous(memory_format=torch.channels_last)
        return (found.permute(0, 2, 3, 1) if last_channels else found).flatten(1)

    def _sides(self) -> tuple[Shape, Shape]:
        return self.in_shape[1:], self.out_shape[1:]


@dataclass(frozen=True)
class Dense:
    """A matrix on flattened inputs: weight [O, I], differentiable in the block's weights; the bias left aside."""

    weight: Tensor
    in_shape: Shape
    out_shape: Shape


def effective(block: Block) -> Convolution | Dense | None:
    """The linear part of the block as one layer; None when it has several, or a convolution beside a flattening."""
    weighted = [layer for layer in block.layers if not isinstance(layer, Diagonal | Flatten)]
    if len(weighted) != 1:
        return None
    (layer,) = weighted
    place = block.layers.index(layer)
    if isinstance(layer, Linear):
        before = _scale(block.layers[:place], block.in_shape, layer.weight)
        after = _scale(block.layers[place + 1 :], layer.out_shape, layer.weight)
        return Dense(after.view(-1, 1) * layer.weight * before.view(1, -1), block.in_shape, block.out_shape)
    if not isinstance(layer, Conv2d) or any(isinstance(other, Flatten) for other in block.layers):
        return None
    # Scaling layers on maps scale whole channels, so the first pixel of a channel stands for all.
    before = _scale(block.layers[:place], block.in_shape, layer.weight)[:, :1, :1]
    after = _scale(block.layers[place + 1 :], layer.out_shape, layer.weight)[:, :1, :1]
    weight = after.unsqueeze(1) * layer.weight * before
    return Convolution(weight, layer.stride, layer.padding, block.in_shape, block.out_shape)


def _scale(layers: tuple[Affine, ...], shape: Shape, like: Tensor) -> Tensor:
    """The product of the scaling layers on maps of `shape`, in the shape the last of them gives out."""
    scale = like.new_ones(1, *shape)
    for layer in layers:
        scale = layer.linear(scale)
    return scale.squeeze(0)
