"""The KW dual bound over the convex outer polytope (003) = Fast-Lin = the area-minimal zonotope.

For c @ f over the ball, with slopes D = 0 / 1 / u/(u-l) at inactive / active / unstable units (003 Theorem 1),
a relaxed unit is  z = D f + g/2 +- g/2  with gap g = -D l. All rows share these slopes, so the middle of every bound is
one forward pass, and only the radius needs the rows A_l = c W_{L+1} D_L W_L ... D_{l+1} W_{l+1}:

    lower, upper = c @ middle -+ ( sum_l |A_l| g_l / 2  +  reach of A_0 over the ball )

which is 003 eq. 5 regrouped: there sum l_j [nu_j]_+ = (sum l_j nu_j - |l_j nu_j|) / 2. The hidden bounds l, u come from
the same formula with c = the unit vectors, layer by layer. Units that a cheaper bound, provably looser than this one,
already shows to be stable are not computed again: only their sign enters anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import affine, at_logits, first_layer, replaced, row_error, unit_reaches, widen
from robustcli.bounds.pull import Pull, Relaxation, RoundedPull
from robustcli.bounds.pull_gradients import chosen_pull
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network

Relax = Callable[[int, Bounds], Relaxation]


def parallelogram(bounds: Bounds) -> Relaxation:
    """The Fast-Lin relaxation: both lines with slope u / (u - l)."""
    unstable = bounds.unstable
    width = torch.where(unstable, bounds.upper - bounds.lower, torch.ones_like(bounds.lower))
    rising = bounds.upper / width
    slope = torch.where(unstable, rising, bounds.active.to(rising.dtype))
    gap = torch.where(unstable, -rising * bounds.lower, torch.zeros_like(rising))
    return Relaxation(slope, gap)


def dual(
    network: Network,
    ball: Ball,
    rows: Tensor,
    *,
    known: Sequence[Bounds] | None = None,
    outward: bool = True,
    rounded: Network | None = None,
) -> MarginBounds:
    """KW bounds for every hidden layer and lower bounds on rows @ logits.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls, any p, boxed or not (boxed: p = 1, 2 or inf).
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        known: sound bounds on the hidden layers over the same balls: none of the result's is looser.
        outward: widen every bound by the rounding error (always for a certificate; False only inside training losses).
        rounded: the network in a lower precision, to pull rows back in; what that loses is added. None: itself.
    Returns:
        margins [B, T] (differentiable in weights and points) and the hidden bounds.
    """
    return sheared(network, ball, rows, lambda _, bounds: parallelogram(bounds), known, outward, rounded)


def sheared(
    network: Network,
    ball: Ball,
    rows: Tensor,
    relax: Relax,
    known: Sequence[Bounds] | None,
    outward: bool,
    rounded: Network | None = None,
) -> MarginBounds:
    """`dual` with the slopes of `relax` in [0, 1], from a hidden layer's position (0-based) and its bounds."""
    blocks = network.blocks
    errors = rounding_errors(network, ball) if outward else None
    if rounded is not None:
        pull: Pull = RoundedPull(rounded, ball)
    else:
        pull = Pull(network) if outward else chosen_pull(network)  # whose squares of small rows may vanish
    layers: list[Bounds] = []
    relaxations: list[Relaxation] = []
    middle = ball.middle()
    for position, block in enumerate(blocks[:-1]):
        error = None if errors is None else errors[position]
        told = None if known is None else known[position]
        middle = block(middle)
        lost = pull.lost(block, error)
        slack = lost if error is None else lost + error
        if position == 0:
            bounds = first_bounds(block, ball, middle, error, told)
        else:
            quick = quick_bounds(block, layers[-1], relaxations[-1])
            quick = quick if error is None else widen(quick, error)
            quick = quick if told is None else quick.intersect(told)
            bounds = hidden_bounds(quick, pull, middle, ball, slack)
            bounds = bounds if told is None else bounds.intersect(told)
        layers.append(bounds)
        relaxations.append(pull.through(relax(position, bounds), bounds, middle))
        middle = relaxations[-1].slope * middle + relaxations[-1].gap / 2
    error = None if errors is None else errors[-1]
    lost = pull.lost(blocks[-1], error)
    down = pull.row_radii(rows.to(pull.dtype), ball)
    margins = at_logits(rows, blocks[-1](middle)) - down.view(rows.shape[:2]) - (rows.abs() * lost.unsqueeze(1)).sum(-1)
    return MarginBounds(margins if error is None else margins - row_error(rows, error), layers)


def first_bounds(block: Block, ball: Ball, middle: Tensor, error: Tensor | None, known: Bounds | None = None) -> Bounds:
    """Exact bounds on the first block, whose middle values are given, for the units the quick bounds leave open.

    An l1 or l2 ball cut with the box costs a search in every row. The ball without the box and the box around both are
    cheap, and already show most units to be stable. Where `known` bounds say as much, they are taken for the search's.
    """
    if ball.box is None or math.isinf(ball.p) or block.mixing > 1:
        bounds = first_layer(block, ball)
        bounds = bounds if error is None else widen(bounds, error)
        return bounds if known is None else bounds.intersect(known)
    free, around = first_layer(block, replace(ball, box=None)), affine(block, *ball.bounding_box())
    quick = free.intersect(around)
    quick = quick if error is None else widen(quick, error)
    searched = quick.unstable
    if known is not None:
        looser = quick if error is None else widen(quick, 2 * error)
        searched = searched & ~((known.lower >= looser.lower) & (known.upper <= looser.upper))
        quick = quick.intersect(known)
    open_units = searched.flatten(1).nonzero()
    if len(open_units) == 0:
        return quick
    down, up = unit_reaches(block, ball, open_units[:, 0], open_units[:, 1])
    return _replaced(quick, open_units, middle, down, up, error)


def hidden_bounds(quick: Bounds, pull: Pull, middle: Tensor, ball: Ball, slack: Tensor) -> Bounds:
    """KW bounds on a layer whose middle values are given, for the units the quick bounds leave open."""
    open_units = quick.unstable.flatten(1).nonzero()
    if len(open_units) == 0:
        return quick
    # The first pull of a unit row is the block's own weight row: its share of the radius is one product for all units.
    block, gap = pull.blocks[len(pull.relaxations)], pull.relaxations[-1].gap
    shared = block.magnitude(gap / 2).flatten(1) if block.mixing == 1 else None
    down, up = pull.unit_radii(open_units, ball, shared)
    return _replaced(quick, open_units, middle, down, up, slack)


def _replaced(bounds: Bounds, units: Tensor, middle: Tensor, down: Tensor, up: Tensor, error: Tensor | None) -> Bounds:
    """Bounds with those of some units, [n, 2] pairs of image and unit, at middle - down and middle + up instead."""
    flat = units[:, 0] * middle[0].numel() + units[:, 1]
    at = middle.flatten().index_select(0, flat)
    slack = 0.0 if error is None else error.expand_as(middle).flatten().index_select(0, flat)
    return replaced(bounds, flat, at - down - slack, at + up + slack)


def quick_bounds(block: Block, before: Bounds, relaxation: Relaxation) -> Bounds:
    """Interval bounds after the *relaxed* ReLU: z in [slope l, u]. Never tighter than the KW bound.

    (The KW bound minimises over the same relaxed ReLUs, but jointly over the ball; here each unit moves on its own.)
    """
    upper = torch.where(before.unstable, before.upper, relaxation.slope * before.upper)
    return affine(block, relaxation.slope * before.lower, upper)
