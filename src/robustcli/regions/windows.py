"""Rows V_j of convolutional units, for all units of a layer at once, stored as the windows of the input they reach.

A unit behind convolutions depends on a square window of the input only, so V^(l+1) = W D V^(l) is pushed forwards on
windows: the work of a unit is its taps times the window below, not the image. Windows are cut into cells of g x g
pixels, g a divisor of every stride and window size, so that windows of neighbouring positions overlap in whole cells;
one cell of the layer above is then one product of all positions and images with the weights of the taps reaching it.

At the second layer the windows below are the filters themselves: V is linear in the pattern, and a cell is one product
of the pattern's taps [positions x images, taps x channels] with a constant matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.layers import Shape
from robustcli.regions.effective import Convolution
from robustcli.regions.geometry import Cell, Geometry

Cells = dict[Cell, Tensor]
"""V by cell of the window: [rows, columns, images, pixels x input channels, units' channels] each."""


class SecondConvolution:
    """V^(2) of a convolution on a convolution, from the pattern of the first."""

    def __init__(self, first: Convolution, second: Convolution) -> None:
        below = Geometry.first(first)
        self.layer, self.geometry = second, below.above(second)
        g, count = below.cell, below.count
        filters = first.weight.view(*first.weight.shape[:2], count, g, count, g)  # [c', in, i, a, j, b]
        self.products: dict[Cell, tuple[slice, slice, Tensor]] = {}
        for cell in self.geometry.cells():
            (us, rows), (vs, columns) = (zip(*below.taps(at, second.kernel), strict=True) for at in cell)
            u, v = slice(us[0], us[-1] + 1), slice(vs[0], vs[-1] + 1)
            pieces = filters[:, :, list(rows)][:, :, :, :, list(columns)]
            matrix = torch.einsum("kcuv,ciuavb->uvcabik", second.weight[:, :, u, v], pieces)
            self.products[cell] = u, v, matrix.reshape(math.prod(matrix.shape[:3]), -1).contiguous()

    def __call__(self, filters: Cells, mask: Tensor) -> Iterator[tuple[Cell, Tensor]]:
        """The cells one by one, from the pattern of the first layer [n, *shape] (its filters are in the matrices)."""
        tiles = taps_of(self.layer, mask).permute(1, 2, 0, 3, 4, 5).contiguous()
        outer, channels = tiles.shape[:3], self.layer.out_shape[0]
        for cell, (u, v, matrix) in self.products.items():
            found = tiles[:, :, :, u, v].reshape(-1, len(matrix)) @ matrix
            shaped = found.view(*outer, -1, channels)
            self.geometry.cut(shaped, cell)
            yield cell, shaped


class NextConvolution:
    """V^(l+1) of a convolution above `below`."""

    def __init__(self, below: Geometry, layer: Convolution) -> None:
        self.below, self.layer, self.geometry = below, layer, below.above(layer)

    def __call__(self, cells: Cells, mask: Tensor) -> Iterator[tuple[Cell, Tensor]]:
        """The cells one by one, from those below and the pattern [n, *shape] between."""
        layer = self.layer
        masked = {cell: self._masked(value, mask) for cell, value in cells.items()}
        rows, columns = self.geometry.positions
        for cell in self.geometry.cells():
            parts, weights = [], []
            for (u, i), (v, j) in product(*(self.below.taps(at, layer.kernel) for at in cell)):
                strided = masked[i, j][u :: layer.stride, v :: layer.stride]
                parts.append(strided[:rows, :columns])
                weights.append(layer.weight[:, :, u, v].t())
            joined = torch.cat(parts, 4)
            yield cell, (joined.flatten(0, 3) @ torch.cat(weights)).view(*joined.shape[:4], -1)

    def _masked(self, cells: Tensor, mask: Tensor) -> Tensor:
        """V on the active units only, with a border of zeros for the padding."""
        padding = self.layer.padding
        active = mask.permute(2, 3, 0, 1).unsqueeze(3)
        return F.pad(cells * active, [0, 0] * 3 + [padding] * 4)


@dataclass(frozen=True)
class Remainder:
    """The input cells first + step * (0, 1, ...) along both axes, as far as they meet the image.

    Args:
        rows, columns: which of them, e.g. 1..7.
        high, wide: cells of a window that fall on them, along both axes.
        weight: of the dense layer on those: [cells, high x wide x channels, units].
    """

    rows: range
    columns: range
    high: int
    wide: int
    weight: Tensor


class FirstDense:
    """V^(l+1) of a dense layer above `below`: rows over the whole image, cell by cell.

    Args:
        below: windows of the layer below, whose map has shape `in_shape`.
        matrix: the layer, [units, in]; products are taken in its precision.

    A dense layer is a convolution with one tap for every position. Input cells with the same remainder modulo the
    positions' stride take the same cells of the windows, so each remainder is one batched product.
    """

    def __init__(self, below: Geometry, in_shape: Shape, matrix: Tensor) -> None:
        self.below, self.step = below, below.stride // below.cell
        weight = matrix.view(-1, *in_shape).permute(2, 3, 1, 0)  # [rows, columns, channels, units]
        self.units = weight.shape[3]
        self.kinds = min(self.step, below.count)
        self.remainders = [self._remainder(first, weight) for first in product(range(self.kinds), range(self.kinds))]
        self._room: list[Tensor] = []

    def _remainder(self, first: Cell, weight: Tensor) -> Remainder:
        high, wide = (len(range(start, self.below.count, self.step)) for start in first)
        rows, columns = weight.shape[:2]
        spread = weight.new_zeros(rows + high - 1, columns + wide - 1, high, wide, *weight.shape[2:])
        for k, m in product(range(high), range(wide)):
            spread[k : k + rows, m : m + columns, k, m] = weight
        down, across = (
            self._meeting(*axis) for axis in zip(first, spread.shape[:2], self.below.image[1:], strict=True)
        )
        kept = spread[down.start : down.stop, across.start : across.stop]
        return Remainder(down, across, high, wide, kept.flatten(2, 4).flatten(0, 1).contiguous())

    def _meeting(self, first: int, count: int, limit: int) -> range:
        """Which of the cells first, first + step, ... (`count` of them) along one axis meet the image."""
        side = self.below.cell
        starts = [(first + place * self.step) * side - self.below.origin for place in range(count)]
        inside = [place for place, start in enumerate(starts) if start + side > 0 and start < limit]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def room(self, images: int) -> list[Tensor]:
        """Arrays for the masked windows of each remainder, zero where `place` never writes; used again and again."""
        if not self._room or self._room[0].shape[2] != images:
            self._room = [
                kind.weight.new_zeros(
                    len(kind.rows), len(kind.columns), images, self.below.pixels, kind.high * kind.wide, channels
                )
                for kind in self.remainders
                for channels in [kind.weight.shape[1] // (kind.high * kind.wide)]
            ]
        return self._room

    def place(self, room: Sequence[Tensor], cell: Cell, value: Tensor, mask: Tensor) -> None:
        """Write a cell of the windows below, on active units only (pattern [n, *shape]), where its product needs it."""
        number = self.kinds * (cell[0] % self.step) + cell[1] % self.step
        kind, (k, m) = self.remainders[number], (at // self.step for at in cell)
        rows, columns = self.below.positions
        down = range(max(k, kind.rows.start), min(k + rows, kind.rows.stop))
        across = range(max(m, kind.columns.start), min(m + columns, kind.columns.stop))
        if not down or not across:
            return
        target = room[number][
            _moved(down, kind.rows.start), _moved(across, kind.columns.start), :, :, k * kind.wide + m
        ]
        active = mask.permute(2, 3, 0, 1).unsqueeze(3)
        here = _moved(down, k), _moved(across, m)
        torch.mul(value[here], active[here], out=target)

    def __call__(self, room: Sequence[Tensor]) -> list[Tensor]:
        """V of all units on the input cells of each remainder: [cells, n, pixels, units] each (numbers outside the
        image are zero)."""
        found = []
        for placed, kind in zip(room, self.remainders, strict=True):
            if not placed.numel():
                continue
            cells, images, pixels = placed.shape[0] * placed.shape[1], placed.shape[2], placed.shape[3]
            value = torch.bmm(placed.view(cells, images * pixels, -1), kind.weight)
            found.append(value.view(cells, images, pixels, self.units))
        return found


def _moved(places: range, by: int) -> slice:
    return slice(places.start - by, places.stop - by)


def first_cells(layer: Convolution) -> Cells:
    """V^(1): the filters, cut at the border, the same for every image."""
    geometry = Geometry.first(layer)
    g, count = geometry.cell, geometry.count
    filters = layer.weight.view(*layer.weight.shape[:2], count, g, count, g)
    cells = {}
    for i, j in geometry.cells():
        pixels = filters[:, :, i, :, j].permute(2, 3, 1, 0).reshape(1, 1, 1, geometry.pixels, -1)
        cells[i, j] = pixels.repeat(*geometry.positions, 1, 1, 1)
        geometry.cut(cells[i, j], (i, j))
    return cells


def second_rows(
    first: Convolution, second: Convolution, mask: Tensor, image: Tensor, unit: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """V^(2) of chosen units, differentiable in the weights: their windows of the input, zero outside the image.

    V is linear in the pattern with one matrix per output channel, so units are sorted by channel, and only the matrices
    need gradients. Some pixel rows of a window see some tap rows only: the windows come in strips with the same taps.

    Args:
        mask: pattern of the first layer, [B, *shape].
        image, unit: [n] each, units numbered in the second layer.
    Returns:
        the order the units were taken in, [n], and strips of their windows in this order, [n, pixels x C] each.
    """
    below = Geometry.first(first)
    geometry, kernel = below.above(second), second.kernel
    rows, columns = geometry.positions
    channel, position = unit // (rows * columns), unit % (rows * columns)
    order = channel.argsort()
    taps = taps_of(second, mask).flatten(3).flatten(0, 2)
    chosen = taps.index_select(0, (image * rows * columns + position)[order])
    counts = torch.bincount(channel, minlength=len(second.weight)).tolist()
    inside = geometry.inside(position[order]).unsqueeze(3).expand(-1, -1, -1, geometry.image[0])
    eye = torch.eye(kernel**2 * second.weight.shape[1], dtype=mask.dtype, device=mask.device)
    basis = eye.view(-1, kernel, kernel, second.weight.shape[1]).permute(0, 3, 1, 2)
    spread = F.conv_transpose2d(basis, first.weight, None, first.stride).permute(0, 2, 3, 1)  # [taps, rows, columns, C]
    filters = second.weight.permute(0, 2, 3, 1).flatten(1).unsqueeze(2)
    strips = []
    for lines, used in below.strips(kernel):
        own = slice(*(tap * kernel * second.weight.shape[1] for tap in used))
        matrices = filters[:, own] * spread[own, slice(*lines)].flatten(1)
        parts = [part[:, own] @ matrix for part, matrix in zip(chosen.split(counts), matrices, strict=True)]
        strips.append(torch.cat(parts).mul_(inside[:, slice(*lines)].flatten(1)))
    return order, strips


def taps_of(layer: Convolution, maps: Tensor) -> Tensor:
    """What the filters see at every position: maps [n, C, H, W] -> [n, rows, columns, k, k, C]."""
    tiles = F.pad(maps, [layer.padding] * 4).unfold(2, layer.kernel, layer.stride)
    return tiles.unfold(3, layer.kernel, layer.stride).permute(0, 2, 3, 4, 5, 1)
