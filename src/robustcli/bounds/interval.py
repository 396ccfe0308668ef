"""Interval bounds (IBP): centre and radius through every layer, the last one merged with the functional asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.balls import Ball, reach
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows

CHUNK_NUMBERS = 1 << 24  # coefficients held at once when rows are needed for a whole layer


def interval(network: Network, ball: Ball, rows: Tensor, *, outward: bool = True) -> MarginBounds:
    """Interval bounds for every hidden layer and for rows @ logits.

    Args:
        network: same precision as the ball.
        ball: B balls; the first layer takes the exact (box-aware) dual norm of its rows.
        rows: functionals of the logits, [B, T, K].
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
            layers.append(bounds if errors is None else widen(bounds, errors[position]))
        last = layers[-1]
        lower, upper = last.lower.relu().flatten(1), last.upper.relu().flatten(1)
        merged = Rows.whole(rows)
        pulled = merged.through(blocks[-1]).values.view(*rows.shape[:2], -1)
        centre, radius = (upper + lower) / 2, (upper - lower) / 2
        margins = (pulled * centre.unsqueeze(1)).sum(-1) - (pulled.abs() * radius.unsqueeze(1)).sum(-1)
        margins = margins + merged.offset(blocks[-1]).view(margins.shape)
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

    For p = inf this is interval arithmetic; without a box the row norms are the same for all points; for boxed l1 and
    l2 balls each row is maximised over its own receptive field.
    """
    if math.isinf(ball.p):
        return affine(block, *ball.bounding_box())
    device = ball.center.device
    if ball.box is None:
        units = torch.arange(block.units, device=device)
        one = Ball(torch.zeros_like(ball.center[:1]), torch.ones_like(ball.eps[:1]), ball.p, None)
        lower, _ = _unit_extremes(block, one, torch.zeros_like(units), units)
        reach = (block.offset().flatten() - lower).view(1, *block.out_shape)
        radius = reach * ball.eps.view(-1, *[1] * len(block.out_shape))
        centre = block(ball.center)
        return Bounds(centre - radius, centre + radius)
    images = torch.arange(ball.size, device=device).repeat_interleave(block.units)
    units = torch.arange(block.units, device=device).repeat(ball.size)
    lower, upper = _unit_extremes(block, ball, images, units)
    shape = (ball.size, *block.out_shape)
    return Bounds(lower.view(shape), upper.view(shape))


def _unit_extremes(block: Block, ball: Ball, images: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of chosen outputs of the first block, in bounded memory."""
    if len(block.out_shape) == 3:
        width = block.fan_in
    else:
        width = math.prod(block.in_shape)
    lowers, uppers = [], []
    for image, unit in zip(
        images.split(max(1, CHUNK_NUMBERS // width)), units.split(max(1, CHUNK_NUMBERS // width)), strict=True
    ):
        start = Rows.units(block.out_shape, image, unit, ball.center.dtype)
        lower, upper = extremes(start.through(block), ball)
        shift = start.offset(block)
        lowers.append(lower + shift)
        uppers.append(upper + shift)
    return torch.cat(lowers), torch.cat(uppers)


def extremes(rows: Rows, ball: Ball) -> tuple[Tensor, Tensor]:
    """min and max over the ball of each row acting on the input -> two tensors [n]."""
    rows = rows.inside()
    flat = rows.values.flatten(1)
    if math.isinf(ball.p):
        low, high = ball.bounding_box()
        middle = rows.dot((low + high) / 2)
        radius = (flat.abs() * rows.gather((high - low) / 2).flatten(1)).sum(1)
        return middle - radius, middle + radius
    middle, eps = rows.dot(ball.center), ball.eps.index_select(0, rows.image)
    if ball.box is None:
        radius = reach(flat, flat, flat, eps, ball.p, boxed=False)
        return middle - radius, middle + radius
    down, up = (rows.gather(side).flatten(1) for side in ball.room())
    return middle - reach(flat, down, up, eps, ball.p, True), middle + reach(-flat, down, up, eps, ball.p, True)


def linear_margins(block: Block, ball: Ball, rows: Tensor) -> Tensor:
    """Exact minima of rows @ logits for a network without hidden layer, [B, T]."""
    start = Rows.whole(rows)
    lower, _ = extremes(start.through(block), ball)
    return (lower + start.offset(block)).view(rows.shape[:2])


def widen(bounds: Bounds, error: Tensor) -> Bounds:
    """Bounds moved outward by the rounding error."""
    return Bounds(bounds.lower - error, bounds.upper + error)


def row_error(rows: Tensor, error: Tensor) -> Tensor:
    """Rounding error of rows @ logits, [B, T], from that of the logits [B, K]."""
    return 2 * (rows.abs() * error.unsqueeze(1)).sum(-1)
