"""How rows come down through relaxed layers, and how far what they stand for can move (`dual`): in the network's own
precision, or in a lower one with what that loses added outward. With gradients: `pull_gradients`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import Room, reaches
from robustcli.bounds.summing import additions, gamma, total, upward
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows, by_image, pull_roundings, widest

CHUNK_NUMBERS = 1 << 19  # row coefficients pulled back at once: stays in the cache's reach

Radii = tuple[Tensor, Tensor]
"""How far rows fall below and rise above their middle, two [n]."""


@dataclass(frozen=True)
class Relaxation:
    """slope z <= relu(z) <= slope z + gap on [l, u], both [B, *shape]; no gap at stable units."""

    slope: Tensor
    gap: Tensor

    def take(self, index: slice) -> Relaxation:
        """The relaxation of some of the points."""
        return Relaxation(self.slope[index], self.gap[index])


class Pull:
    """How rows come down: through these blocks and relaxations, in the network's own precision."""

    def __init__(self, network: Network) -> None:
        self.blocks = network.blocks
        self.dtype, self.device = network.dtype, network.device
        self.relaxations: list[Relaxation] = []

    def lost(self, block: Block, error: Tensor | None) -> Tensor:
        """What unit rows of the next block lose by rounding on their way to its input beyond the a-priori `error`,
        [B or 1, *out_shape]."""
        return torch.zeros(1, *block.out_shape, dtype=self.dtype, device=self.device)

    def through(self, relaxation: Relaxation, bounds: Bounds, middle: Tensor) -> Relaxation:
        """The relaxation to use for the next hidden layer, whose bounds and middle values are given."""
        self.relaxations.append(relaxation)
        return relaxation

    def row_radii(self, rows: Tensor, ball: Ball) -> Tensor:
        """How far rows @ logits, [B, T, K], fall below their middle, [B T]."""
        down, _ = self.radii(Rows.whole(rows).through(self.blocks[-1]), slice(None), ball, None)
        return down

    def unit_radii(self, units: Tensor, ball: Ball, shared: Tensor | None) -> tuple[Tensor, Tensor]:
        """How far chosen units of the next block, [n, 2] pairs of image and unit, fall below and rise above their
        middle, two [n]; `shared` [B, *out_shape]: what the last relaxation adds, if known."""
        blocks = self.blocks[: len(self.relaxations) + 1]
        block, downs, ups = blocks[-1], [], []
        for images, image, unit in by_image(units, rows_at_once(blocks)):
            share = None if shared is None else shared[images].flatten().index_select(0, image * block.units + unit)
            down, up = self.radii(Rows.outputs(block, image, unit), images, ball, share)
            downs.append(down)
            ups.append(up)
        return torch.cat(downs), torch.cat(ups)

    def radii(self, rows: Rows, images: slice, ball: Ball, share: Tensor | None) -> tuple[Tensor, Tensor]:
        """How far rows acting on the input of the next block, of some images, fall below and rise above their middle,
        two [n]; `share`: what the last relaxation adds, if known."""
        here = [relaxation.take(images) for relaxation in self.relaxations]
        down, up, _ = radii(rows, self.blocks, here, ball.take(images), share)
        return down, up


class RoundedPull(Pull):
    """The same in a lower precision, what it loses added outward.

    As in `backward`, whatever the rounded row, only the difference to what a step should have computed is lost, and it
    acts on how far values move from their middle: with R >= |g'| of the relaxed units below and S = |W| R >= |z'|,
    A' = B W loses gamma |B| S, which wider gaps pay. The sums of numbers of one sign lose a share of themselves.
    """

    def __init__(self, network: Network, ball: Ball) -> None:
        super().__init__(network)
        room, unit = Room.of(ball), torch.finfo(ball.eps.dtype).eps
        size = ball.center.abs() + torch.maximum(room.down, room.up)
        self._reached = torch.maximum(room.down, room.up) + 4 * unit * size
        self._floor = torch.zeros_like(ball.eps)

    def lost(self, block: Block, error: Tensor | None) -> Tensor:
        pulls, exact = pull_roundings(block), self._reached.dtype
        self._moves = (1 + 2 * gamma(block.roundings, exact)) * block.magnitude(self._reached)
        self._moves = self._moves if error is None else self._moves + error
        self._drift = gamma(pulls, self.dtype) * self._moves
        # Products below the number range: so many in a coefficient, which acts on these moves.
        moved = block.units + self._reached.flatten(1).sum(1) + self._moves.flatten(1).sum(1)
        self._floor = self._floor + 8 * pulls * torch.finfo(self.dtype).tiny * moved
        return self._drift + self._floor.view(-1, *[1] * len(block.out_shape))

    def through(self, relaxation: Relaxation, bounds: Bounds, middle: Tensor) -> Relaxation:
        slope = relaxation.slope.to(self.dtype).to(relaxation.slope.dtype)
        changed = (slope - relaxation.slope).abs() * torch.maximum(bounds.upper, -bounds.lower)
        gap = torch.where(bounds.unstable, relaxation.gap + changed, torch.zeros_like(slope))
        moves = torch.fmin(torch.maximum(bounds.upper - middle, middle - bounds.lower), self._moves)
        self._reached = slope * moves + gap / 2
        self.relaxations.append(Relaxation(slope.to(self.dtype), upward(gap + 2 * slope * self._drift, self.dtype)))
        return Relaxation(slope, gap)

    def radii(self, rows: Rows, images: slice, ball: Ball, share: Tensor | None) -> tuple[Tensor, Tensor]:
        here = [relaxation.take(images) for relaxation in self.relaxations]
        down, up, roundings = radii(rows, self.blocks, here, ball.take(images), share)
        more = 1 + gamma(roundings + self.blocks[len(here)].fan_in + 16, self.dtype)
        return more * down.to(ball.eps.dtype), more * up.to(ball.eps.dtype)


def radii(
    rows: Rows, blocks: Sequence[Block], relaxations: Sequence[Relaxation], ball: Ball, share: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """How far rows acting on the output of the last relaxation fall below and rise above their middle, two [n], and the
    roundings in the sums of numbers of one sign that these are, what they are made of not counted.

    Args:
        rows: of values behind the last of `relaxations`.
        blocks, relaxations: from the input on.
        ball: B balls.
        share: what the last relaxation adds, if known.
    """
    spread, roundings = rows.values.new_zeros(len(rows)), 0
    for block, relaxation in zip(reversed(blocks[: len(relaxations)]), reversed(relaxations), strict=True):
        if share is None:
            share = total(rows.values.abs() * rows.gather(relaxation.gap / 2))
            roundings += additions(math.prod(rows.values.shape[1:]))
        spread, share = spread + share, None
        rows = rows.times(relaxation.slope).through(block)
    down, up = reaches(rows, ball)
    roundings += Room.of(ball).roundings(math.prod(rows.values.shape[1:])) + 2 * len(relaxations)
    return spread + down, spread + up, roundings


def rows_at_once(blocks: Sequence[Block]) -> int:
    """How many rows fit the chunk."""
    return max(16, CHUNK_NUMBERS // widest(blocks))
