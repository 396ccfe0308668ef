"""Where the windows lie that the units of convolutional layers reach in the input, and how they are cut into cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from robustcli.regions.effective import Convolution

Cell = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a layer lie.

    Args:
        positions: rows and columns of the layer's map.
        stride: input pixels from one position to the next.
        origin: the window of position 0 starts at input row and column -origin.
        count: cells along one side of a window.
        cell: g, pixels along one side of a cell.
        image: input shape [C, H, W].
    """

    positions: tuple[int, int]
    stride: int
    origin: int
    count: int
    cell: int
    image: tuple[int, int, int]

    @classmethod
    def first(cls, layer: Convolution) -> Geometry:
        """Of the first convolution."""
        g = math.gcd(layer.kernel, layer.stride)
        image = (layer.in_shape[0], layer.in_shape[1], layer.in_shape[2])
        return cls(_map(layer), layer.stride, layer.padding, layer.kernel // g, g, image)

    def above(self, layer: Convolution) -> Geometry:
        """Of the convolution on top."""
        step = self.stride // self.cell
        return Geometry(
            positions=_map(layer),
            stride=self.stride * layer.stride,
            origin=self.origin + layer.padding * self.stride,
            count=self.count + (layer.kernel - 1) * step,
            cell=self.cell,
            image=self.image,
        )

    @property
    def pixels(self) -> int:
        """Numbers in one cell."""
        return self.cell**2 * self.image[0]

    @property
    def size(self) -> int:
        """Numbers in one window, those over the border included."""
        return self.count**2 * self.pixels

    def cells(self) -> Iterator[Cell]:
        """All cells of a window."""
        return product(range(self.count), range(self.count))

    def taps(self, target: int, kernel: int) -> list[tuple[int, int]]:
        """(tap u, cell i below) that make up cell `target` of the layer above, along one axis: u step + i = target."""
        step = self.stride // self.cell
        return [(u, target - u * step) for u in range(kernel) if 0 <= target - u * step < self.count]

    def strips(self, kernel: int) -> list[tuple[Cell, Cell]]:
        """Pixel rows (from, to) of the windows above that see the same tap rows (from, to) of a kernel; a strip whose
        taps a neighbour has as well is joined with it."""
        joined: list[tuple[Cell, Cell]] = []
        for target in range(self.count + (kernel - 1) * (self.stride // self.cell)):
            used = [tap for tap, _ in self.taps(target, kernel)]
            lines, taps = (target * self.cell, (target + 1) * self.cell), (used[0], used[-1] + 1)
            if joined:
                before_lines, before = joined[-1]
                union = min(before[0], taps[0]), max(before[1], taps[1])
                if union in (before, taps):
                    lines, taps = (before_lines[0], lines[1]), union
                    joined.pop()
            joined.append((lines, taps))
        return joined

    def inside(self, position: Tensor) -> Tensor:
        """Which pixels of the windows at positions [n] lie in the image: [n, side, side]."""
        pixels = torch.arange(self.count * self.cell, device=position.device) - self.origin
        down = (position // self.positions[1] * self.stride).unsqueeze(1) + pixels
        across = (position % self.positions[1] * self.stride).unsqueeze(1) + pixels
        high = (down >= 0) & (down < self.image[1])
        wide = (across >= 0) & (across < self.image[2])
        return high.unsqueeze(2) & wide.unsqueeze(1)

    def cut(self, cells: Tensor, at: Cell) -> None:
        """Set to zero what a cell [rows, columns, n, pixels, channels] holds outside the image."""
        side = self.cell
        shaped = cells.view(*cells.shape[:3], side, side, -1)
        for axis, (index, limit) in enumerate(zip(at, self.image[1:], strict=True)):
            for position in range(self.positions[axis]):
                start = position * self.stride - self.origin + index * side
                outside = [pixel for pixel in range(side) if not 0 <= start + pixel < limit]
                if outside:
                    strip = shaped.select(axis, position)
                    if axis == 0:
                        strip[:, :, outside] = 0
                    else:
                        strip[:, :, :, outside] = 0


def _map(layer: Convolution) -> tuple[int, int]:
    return layer.out_shape[1], layer.out_shape[2]
