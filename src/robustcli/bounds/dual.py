"""The KW dual bound over the convex outer polytope (003) = Fast-Lin = the area-minimal zonotope.

For c @ f over the ball, with slopes D = 0 / 1 / u/(u-l) at inactive / active / unstable units (003 eq. 7-8, Algorithm 1;
notes section 4.1), written with A = -nu:

    A_{L+1} = c W_{L+1};   for l = L..1:  value += A_l b_l-term,  A <- (A D_l) W_l
    lower = A_1 x-term over the ball + biases + sum_l sum_{j unstable} min(A_lj, 0) (-D_lj l_lj)

The hidden bounds l, u come from the same formula with c = the unit vectors, layer by layer. Units that a cheaper bound,
provably looser than this one, already shows to be stable are not computed again: only their sign enters anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import affine, extremes, first_layer, linear_margins, row_error, widen
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows

CHUNK_NUMBERS = 1 << 21  # row coefficients pulled back at once without gradients: stays in the cache's reach


@dataclass(frozen=True)
class Relaxation:
    """slope z <= relu(z) <= slope z + gap on [l, u], both [B, *shape]; gap = -slope l at unstable units, else 0."""

    slope: Tensor
    gap: Tensor


def parallelogram(bounds: Bounds) -> Relaxation:
    """The Fast-Lin relaxation: both lines with slope u / (u - l)."""
    unstable = bounds.unstable
    width = torch.where(unstable, bounds.upper - bounds.lower, torch.ones_like(bounds.lower))
    rising = bounds.upper / width
    slope = torch.where(unstable, rising, bounds.active.to(rising.dtype))
    gap = torch.where(unstable, -rising * bounds.lower, torch.zeros_like(rising))
    return Relaxation(slope, gap)


def dual(network: Network, ball: Ball, rows: Tensor, *, outward: bool = True) -> MarginBounds:
    """KW bounds for every hidden layer and lower bounds on rows @ logits.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls, any p, boxed or not.
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        outward: widen every bound by the rounding error (always for a certificate; False only inside training losses).
    Returns:
        margins [B, T] (differentiable in weights and points) and the hidden bounds.
    """
    blocks = network.blocks
    errors = rounding_errors(network, ball) if outward else None
    layers: list[Bounds] = []
    relaxations: list[Relaxation] = []
    for position, block in enumerate(blocks[:-1]):
        if position == 0:
            bounds = first_layer(block, ball)
            bounds = bounds if errors is None else widen(bounds, errors[0])
        else:
            error = None if errors is None else errors[position]
            bounds = hidden_bounds(blocks[: position + 1], relaxations, layers[-1], ball, error)
        layers.append(bounds)
        relaxations.append(parallelogram(bounds))
    if len(blocks) == 1:
        margins = linear_margins(blocks[0], ball, rows)
    else:
        start = Rows.whole(rows)
        lower, _ = pull_to_input(start, blocks, relaxations, ball)
        margins = lower.view(rows.shape[:2])
    if errors is not None:
        margins = margins - row_error(rows, errors[-1])
    return MarginBounds(margins, layers)


def hidden_bounds(
    blocks: list[Block], relaxations: list[Relaxation], before: Bounds, ball: Ball, error: Tensor | None
) -> Bounds:
    """KW bounds on the last of `blocks`, computed only for units the quick bound leaves open."""
    quick = quick_bounds(blocks[-1], before, relaxations[-1])
    quick = quick if error is None else widen(quick, error)
    open_units = quick.unstable.flatten(1).nonzero()
    if len(open_units) == 0:
        return quick
    image, unit = open_units.unbind(1)
    lower, upper = [], []
    for chosen in torch.arange(len(image), device=image.device).split(_rows_at_once(blocks)):
        start = Rows.units(blocks[-1].out_shape, image[chosen], unit[chosen], ball.center.dtype)
        low, high = pull_to_input(start, blocks, relaxations, ball)
        lower.append(low)
        upper.append(high)
    flat = image * blocks[-1].units + unit
    exact = Bounds(
        quick.lower.flatten().index_copy(0, flat, torch.cat(lower)).view_as(quick.lower),
        quick.upper.flatten().index_copy(0, flat, torch.cat(upper)).view_as(quick.upper),
    )
    if error is None:
        return exact
    taken = torch.zeros_like(quick.lower, dtype=torch.bool).flatten().index_fill(0, flat, True).view_as(quick.lower)
    return widen(exact, torch.where(taken, error, torch.zeros_like(error)))


def quick_bounds(block: Block, before: Bounds, relaxation: Relaxation) -> Bounds:
    """Interval bounds after the *relaxed* ReLU: z in [slope l, u]. Never tighter than the KW bound.

    (The KW bound minimises over the same relaxed ReLUs, but jointly over the ball; here each unit moves on its own.)
    """
    open_unit = before.unstable
    upper = torch.where(open_unit, before.upper, relaxation.slope * before.upper)
    return affine(block, relaxation.slope * before.lower, upper)


def pull_to_input(
    rows: Rows, blocks: list[Block], relaxations: list[Relaxation], ball: Ball
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds [n] of rows acting on the output of the last block, over the relaxed network."""
    constant = rows.offset(blocks[-1])
    low = high = torch.zeros_like(constant)
    rows = rows.through(blocks[-1])
    for block, relaxation in zip(reversed(blocks[:-1]), reversed(relaxations), strict=True):
        gap = rows.gather(relaxation.gap)
        low = low + (rows.values.clamp(max=0) * gap).flatten(1).sum(1)
        high = high + (rows.values.clamp(min=0) * gap).flatten(1).sum(1)
        rows = rows.times(relaxation.slope)
        constant = constant + rows.offset(block)
        rows = rows.through(block)
    smallest, largest = extremes(rows, ball)
    return constant + low + smallest, constant + high + largest


def _rows_at_once(blocks: list[Block]) -> int:
    """How many rows fit the chunk; all of them while gradients are recorded (they would be kept anyway)."""
    if torch.is_grad_enabled() and any(w.requires_grad for layer in blocks[-1].layers for w in layer.parameters()):
        return 1 << 30
    conv = len(blocks[-1].out_shape) == 3
    width = blocks[-1].fan_in if conv else max(math.prod(block.in_shape) for block in blocks)
    return max(16, CHUNK_NUMBERS // width)
