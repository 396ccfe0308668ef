"""How far all units of a second convolution move over balls, from the slopes of the first layer's ReLUs.

The row of such a unit is a window of the input, linear in the slopes it sees: cell by cell of the windows it is one
product of these slopes, for all positions and images, with a constant matrix for all channels (`regions.windows`). That
is a sixth of the multiplications that pulling a window back takes, and nothing is gathered for single units.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.interval import Room
from robustcli.networks.network import Block
from robustcli.regions.effective import Convolution, effective
from robustcli.regions.first_layer import root
from robustcli.regions.windows import SecondConvolution, taps_of


class SecondLayer:
    """The second of two convolutions. Its `matrices` are differentiable in the weights; `used` are the same as leaves
    of autograd, which `reaches` takes."""

    def __init__(self, first: Convolution, second: Convolution) -> None:
        self.second = second
        windows = SecondConvolution(first, second)
        self.geometry, self.matrices = windows.geometry, [matrix for _, _, matrix in windows.products.values()]
        self.used = [matrix.detach().requires_grad_() for matrix in self.matrices]
        self.cells = [(cell, u, v) for cell, (u, v, _) in windows.products.items()]

    @classmethod
    def of(cls, blocks: list[Block], ball: Ball) -> SecondLayer | None:
        """For the first two blocks, where they are convolutions and balls are the same on all sides of their middle."""
        first, second = effective(blocks[0]), effective(blocks[1])
        if not isinstance(first, Convolution) or not isinstance(second, Convolution):
            return None
        symmetric = math.isinf(ball.p) or (ball.box is None and ball.p in (1, 2))
        return cls(first, second) if symmetric and first.overlaps else None

    def reaches(self, slopes: Tensor, ball: Ball) -> Tensor:
        """How far each unit falls below (and rises above) its middle over balls, [B, *shape], from slopes [B, *shape]
        of the first layer."""
        room = Room.of(ball).down if math.isinf(ball.p) else ball.center.new_ones(1, *ball.center.shape[1:])
        tiles = taps_of(self.second, slopes).permute(1, 2, 0, 3, 4, 5).contiguous()
        seen = self._windows(room)
        total, side = None, self.geometry.cell
        for ((i, j), u, v), matrix in zip(self.cells, self.used, strict=True):
            rows = tiles[:, :, :, u, v].reshape(-1, len(matrix)) @ matrix
            rows = rows.view(*tiles.shape[:3], self.geometry.pixels, -1)  # [rows, columns, B, pixels, channels]
            inside = seen[:, :, :, i * side : (i + 1) * side, j * side : (j + 1) * side].flatten(3).unsqueeze(4)
            sizes = rows * rows if ball.p == 2 else rows.abs()
            if ball.p == 1:
                part = (sizes * inside).amax(3)
                total = part if total is None else torch.maximum(total, part)
            else:
                part = (sizes * inside).sum(3)
                total = part if total is None else total + part
        assert total is not None
        found = total.permute(2, 3, 0, 1)
        if math.isinf(ball.p):
            return found
        return root(found, ball.p) * ball.eps.view(-1, 1, 1, 1) if ball.p == 2 else found * ball.eps.view(-1, 1, 1, 1)

    def _windows(self, room: Tensor) -> Tensor:
        """What each position sees of the input, zero outside: [n, C, H, W] -> [rows, columns, n, side, side, C]."""
        geometry = self.geometry
        side = geometry.count * geometry.cell
        ends = [
            max(0, (count - 1) * geometry.stride - geometry.origin + side - limit)
            for count, limit in zip(geometry.positions, geometry.image[1:], strict=True)
        ]
        padded = F.pad(room, (geometry.origin, ends[1], geometry.origin, ends[0]))
        tiles = padded.unfold(2, side, geometry.stride).unfold(3, side, geometry.stride)
        tiles = tiles[:, :, : geometry.positions[0], : geometry.positions[1]]
        return tiles.permute(2, 3, 0, 4, 5, 1).contiguous()
