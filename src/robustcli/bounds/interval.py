"""Interval bounds (IBP): centre and radius through every layer, the last one merged with the functional asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.balls import Ball, reach
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.summing import additions, total, upward
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows

CHUNK_NUMBERS = 1 << 19  # coefficients held at once when rows are needed for a whole layer: what the caches hold


def interval(
    network: Network, ball: Ball, rows: Tensor, *, known: Sequence[Bounds] | None = None, outward: bool = True
) -> MarginBounds:
    """Interval bounds for every hidden layer and for rows @ logits.

    Args:
        network: same precision as the ball.
        ball: B balls; the first layer takes the exact (box-aware) dual norm of its rows.
        rows: functionals of the logits, [B, T, K].
        known: sound bounds on the hidden layers over the same balls: none of the result's is looser.
        outward: widen by the rounding error (always for a certificate; False only inside training losses).
    """
    blocks = network.blocks
    errors = rounding_errors(network, ball) if outward else None
    layers: list[Bounds] = []
    if len(blocks) == 1:
        margins = linear_margins(blocks[0], ball, rows)
    else:
        for position, block in enumerate(blocks[:-1]):
            bounds = first_layer(block, ball) if position == 0 else through(block, layers[-1])
            bounds = bounds if errors is None else widen(bounds, errors[position])
            layers.append(bounds if known is None else bounds.intersect(known[position]))
        last = layers[-1]
        lower, upper = last.lower.relu().flatten(1), last.upper.relu().flatten(1)
        pulled = Rows.whole(rows).through(blocks[-1]).values.view(*rows.shape[:2], lower.shape[1])
        middle = blocks[-1]((last.lower.relu() + last.upper.relu()) / 2)
        margins = at_logits(rows, middle) - (pulled.abs() * ((upper - lower) / 2).unsqueeze(1)).sum(-1)
    if errors is not None:
        margins = margins - row_error(rows, errors[-1])
    return MarginBounds(margins, layers)


def through(block: Block, before: Bounds) -> Bounds:
    """Interval bounds after relu and block, from bounds before the ReLU."""
    return affine(block, before.lower.relu(), before.upper.relu())


def affine(block: Block, lower: Tensor, upper: Tensor) -> Bounds:
    """Interval bounds of block(z) for lower <= z <= upper."""
    centre, radius = block((lower + upper) / 2), block.magnitude((upper - lower) / 2)
    return Bounds(centre - radius, centre + radius)


def first_layer(block: Block, ball: Ball) -> Bounds:
    """Exact bounds of the first block over the ball: W x + b -+ (dual norm of each row, cut with the box).

    For p = inf and one mixing layer this is interval arithmetic; without a box the row norms are the same for all
    points; else each row reaches over its own receptive field.
    """
    if math.isinf(ball.p) and block.mixing <= 1:
        return affine(block, *ball.bounding_box())
    centre, shape = block(ball.middle()), (-1, *block.out_shape)
    if ball.box is None:
        units = torch.arange(block.units, device=centre.device)
        one = Ball(ball.center[:1], torch.ones_like(ball.eps[:1]), ball.p, None)
        norm, _ = unit_reaches(block, one, torch.zeros_like(units), units)
        radius = norm.view(shape) * ball.eps.view(-1, *[1] * len(block.out_shape))
        return Bounds(centre - radius, centre + radius)
    images = torch.arange(ball.size, device=centre.device).repeat_interleave(block.units)
    units = torch.arange(block.units, device=centre.device).repeat(ball.size)
    down, up = unit_reaches(block, ball, images, units)
    return Bounds(centre - down.view(shape), centre + up.view(shape))


def unit_reaches(block: Block, ball: Ball, images: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """How far chosen outputs of the first block fall and rise over the ball, in bounded memory."""
    width = block.fan_in if len(block.out_shape) == 3 else math.prod(block.in_shape)
    count = max(1, CHUNK_NUMBERS // width)
    downs, ups = [], []
    for image, unit in zip(images.split(count), units.split(count), strict=True):
        down, up = reaches(Rows.units(block.out_shape, image, unit, ball.center.dtype).through(block), ball)
        downs.append(down)
        ups.append(up)
    return torch.cat(downs), torch.cat(ups)


@dataclass(frozen=True)
class Room:
    """How far the points of balls lie from `ball.middle()`.

    Args:
        down, up: room of each coordinate, [B, *input_shape]; equal for p = inf.
        eps: radii, [B].
        p, boxed: as of the balls.
    """

    down: Tensor
    up: Tensor
    eps: Tensor
    p: float
    boxed: bool

    @classmethod
    def of(cls, ball: Ball) -> Room:
        """The room of balls as their arithmetic gives it."""
        if math.isinf(ball.p):
            low, high = ball.bounding_box()
            half = (high - low) / 2
            return cls(half, half, ball.eps, ball.p, ball.box is not None)
        return cls(*ball.room(), ball.eps, ball.p, ball.box is not None)

    def widened(self, slack: Tensor, share: float) -> Room:
        """Every coordinate with `slack` [B, *input_shape] more, and everything by a share of itself."""
        down, up = (side * (1 + share) + slack for side in (self.down, self.up))
        return Room(down, up, self.eps * (1 + share), self.p, self.boxed)

    def to(self, dtype: torch.dtype) -> Room:
        """The same room or, in another precision, a little more."""
        down, up, eps = (upward(each, dtype) for each in (self.down, self.up, self.eps))
        return Room(down, up, eps, self.p, self.boxed)

    def take(self, index: Tensor | slice) -> Room:
        """The room of some of the points."""
        return Room(self.down[index], self.up[index], self.eps[index], self.p, self.boxed)

    def roundings(self, coefficients: int) -> int:
        """Of `fall`, which sums numbers of one sign, for rows with so many coefficients."""
        return additions(coefficients) + 8 if math.isinf(self.p) else 2 * coefficients + 64

    def fall(self, rows: Rows) -> Tensor:
        """How far each row acting on the input can fall below its value at the middle, [n]."""
        if math.isinf(self.p):
            return total(rows.values.abs() * rows.gather(self.down))
        rows = rows.inside()
        flat, eps = rows.values.flatten(1), self.eps.index_select(0, rows.image)
        if not self.boxed:
            return reach(flat, flat, flat, eps, self.p, boxed=False)
        down, up = (rows.gather(side).flatten(1) for side in (self.down, self.up))
        return reach(flat, down, up, eps, self.p, True)


def falls(rows: Rows, ball: Ball) -> Tensor:
    """How far each row acting on the input falls below its value at `ball.middle()` over the ball, [n]."""
    return Room.of(ball).to(rows.values.dtype).fall(rows)


def reaches(rows: Rows, ball: Ball) -> tuple[Tensor, Tensor]:
    """How far each row acting on the input falls below and rises above its value at `ball.middle()`, two [n]."""
    down = falls(rows, ball)
    if ball.box is None or math.isinf(ball.p):
        return down, down  # symmetric around the middle
    return down, falls(replace(rows, values=-rows.values), ball)


def linear_margins(block: Block, ball: Ball, rows: Tensor) -> Tensor:
    """Exact minima of rows @ logits for a network without hidden layer, [B, T]."""
    down = falls(Rows.whole(rows).through(block), ball)
    return at_logits(rows, block(ball.middle())) - down.view(rows.shape[:2])


def at_logits(rows: Tensor, logits: Tensor) -> Tensor:
    """rows @ logits, [B, T]."""
    return (rows @ logits.unsqueeze(2)).squeeze(2)


def widen(bounds: Bounds, error: Tensor) -> Bounds:
    """Bounds moved outward by the rounding error."""
    return Bounds(bounds.lower - error, bounds.upper + error)


def replaced(bounds: Bounds, units: Tensor, lower: Tensor, upper: Tensor) -> Bounds:
    """Bounds [B, *shape] with those found for some units, [n] each, instead; `units` are flat places in [B, *shape].

    What was found and is not a number (rows may leave the number range) proves nothing: the old bound stays.
    """
    low, high = bounds.lower.flatten(), bounds.upper.flatten()
    lower = torch.where(lower.isnan(), low.index_select(0, units), lower)
    upper = torch.where(upper.isnan(), high.index_select(0, units), upper)
    return Bounds(
        low.index_copy(0, units, lower).view_as(bounds.lower), high.index_copy(0, units, upper).view_as(bounds.upper)
    )


def row_error(rows: Tensor, error: Tensor) -> Tensor:
    """Rounding error of rows @ logits, [B, T], from that of the logits [B, K]."""
    return 2 * (rows.abs() * error.unsqueeze(1)).sum(-1)
