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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import (
    Room,
    affine,
    at_logits,
    first_layer,
    reaches,
    replaced,
    row_error,
    unit_reaches,
    widen,
)
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.summing import additions, gamma, total, upward
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows, by_image, pull_roundings, widest

CHUNK_NUMBERS = 1 << 19  # row coefficients pulled back at once without gradients: stays in the cache's reach


@dataclass(frozen=True)
class Relaxation:
    """slope z <= relu(z) <= slope z + gap on [l, u], both [B, *shape]; no gap at stable units."""

    slope: Tensor
    gap: Tensor

    def take(self, index: slice) -> Relaxation:
        """The relaxation of some of the points."""
        return Relaxation(self.slope[index], self.gap[index])


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
    pull = Pull(network) if rounded is None else RoundedPull(rounded, ball)
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
    pulled = Rows.whole(rows.to(pull.dtype)).through(pull.blocks[-1])
    down, _ = pull.radii(pulled, slice(None), ball, None)
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


def hidden_bounds(quick: Bounds, pull: Pull, middle: Tensor, ball: Ball, slack: Tensor) -> Bounds:
    """KW bounds on a layer whose middle values are given, for the units the quick bounds leave open."""
    open_units = quick.unstable.flatten(1).nonzero()
    if len(open_units) == 0:
        return quick
    # The first pull of a unit row is the block's own weight row: its share of the radius is one product for all units.
    blocks = pull.blocks[: len(pull.relaxations) + 1]
    block, gap = blocks[-1], pull.relaxations[-1].gap
    shared = block.magnitude(gap / 2).flatten(1) if block.mixing == 1 else None
    downs, ups = [], []
    for images, image, unit in by_image(open_units, rows_at_once(blocks)):
        share = None if shared is None else shared[images].flatten().index_select(0, image * block.units + unit)
        down, up = pull.radii(Rows.outputs(block, image, unit), images, ball, share)
        downs.append(down)
        ups.append(up)
    return _replaced(quick, open_units, middle, torch.cat(downs), torch.cat(ups), slack)


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
    """How many rows fit the chunk; all of them while gradients are recorded (they would be kept anyway)."""
    if torch.is_grad_enabled() and any(w.requires_grad for layer in blocks[-1].layers for w in layer.parameters()):
        return 1 << 30
    return max(16, CHUNK_NUMBERS // widest(blocks))
