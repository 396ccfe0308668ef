"""Estimates of the KW dual by random projections, to train large networks on (Wong et al. 2018). They certify nothing.

How far the units of a layer move (`dual`) is a sum over sources: the input, and the gap of every ReLU passed. A source
is a diagonal matrix pushed through the layers behind it, V = W_i D_{i-1} ... W_{s+1} diag(scale), and adds a norm of
each row of V. Only k random combinations V R of its columns are pushed, whatever the number of units:

    ||v||_1 ~ median of |v R|, R standard Cauchy          ||v||_2 ~ ||v R||_2 / sqrt(k), R standard normal

with R anew at every pass. For k = 50 the first has mean 0.993 ||v||_1 (the lower of the two middle values) and standard
deviation 0.22 ||v||_1, the second mean 0.995 ||v||_2. In 003's form sum l_j [nu_j]_+ = (sum l_j nu_j - |l_j nu_j|) / 2
the first sum is part of the middle, which is exact. Nothing is estimated that is cheap: first layers, the newest source
(one product with |W|), a source where no image has more than k coordinates that move, and rows of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustcli.balls import Ball
from robustcli.bounds.dual import first_bounds, parallelogram
from robustcli.bounds.interval import Room, at_logits
from robustcli.bounds.medians import median_size
from robustcli.bounds.pull_gradients import chosen_pull
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.errors import UsageError
from robustcli.networks.network import Block, Network
from robustcli.regions.first_layer import root

LARGEST = 1e10
"""Cauchy numbers are cut here: products of the rare ones beyond leave the range of float32."""


IMAGES = 16  # at once


def absolute_sum(values: Tensor) -> Tensor:
    """l1 norms of rows that are known entry by entry, [B, k, *shape] -> [B, *shape]."""
    return values.abs().sum(1)


def square_sum(values: Tensor) -> Tensor:
    """Their l2 norms; a row of zeros has gradient 0."""
    return root((values * values).sum(1), 2)


def mean_square(values: Tensor) -> Tensor:
    """Estimates of l2 norms from k normal combinations."""
    return square_sum(values) / math.sqrt(values.shape[1])


@dataclass(frozen=True)
class Norm:
    """A norm of rows.

    Args:
        exact: from all entries.
        estimated: from random combinations of them.
        draw: fills a tensor with the random numbers of these.
    """

    exact: Callable[[Tensor], Tensor]
    estimated: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor, torch.Generator | None], Tensor]


def cauchy(numbers: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Cauchy numbers. (By uniform ones: torch's own `cauchy_` takes ten times as long on a CPU.)"""
    return numbers.uniform_(-math.pi / 2, math.pi / 2, generator=generator).tan_().clamp_(-LARGEST, LARGEST)


def normal(numbers: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers."""
    return numbers.normal_(generator=generator)


L1 = Norm(absolute_sum, median_size, cauchy)
L2 = Norm(square_sum, mean_square, normal)


@dataclass(frozen=True)
class Columns:
    """Columns of V R, or of V itself, for one source.

    Args:
        values: [B, k, *shape].
        norms: of the rows of V from them, [B, k, *shape] -> [B, *shape].
    """

    values: Tensor
    norms: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, scale: Tensor, count: int, norm: Norm, generator: torch.Generator | None) -> Columns:
        """The columns of diag(scale) R, scale [B, *shape] >= 0: `count` random ones, or those that are not zero where
        no image has more of these."""
        moving = (scale.detach() != 0).flatten(1)
        most = int(moving.sum(1).amax()) if moving.numel() else 0
        if most <= count:
            unit = moving.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
            columns = scale.new_zeros(len(scale), most, moving.shape[1]).scatter_(2, unit.unsqueeze(2), 1.0)
            return cls(columns.view(len(scale), most, *scale.shape[1:]) * scale.unsqueeze(1), norm.exact)
        drawn = torch.empty(len(scale), count, *scale.shape[1:], dtype=scale.dtype, device=scale.device)
        return cls(norm.draw(drawn, generator) * scale.unsqueeze(1), norm.estimated)

    def through(self, block: Block) -> Columns:
        """The columns behind an affine map."""
        batch, count = self.values.shape[:2]
        return replace(self, values=block.linear(self.values.flatten(0, 1)).view(batch, count, *block.out_shape))

    def times(self, slope: Tensor) -> Columns:
        """The columns with every row scaled, slope [B, *shape]."""
        return replace(self, values=self.values * slope.unsqueeze(1))


def input_source(ball: Ball) -> tuple[Tensor, Norm]:
    """How far each coordinate moves from the middle, [B, *input_shape], and the norm that rows of the input take.

    Raises:
        UsageError: for balls whose rows have no such norm.
    """
    if math.isinf(ball.p):
        return Room.of(ball).down, L1
    if ball.p == 2 and ball.box is None:
        return ball.eps.view(-1, *[1] * (ball.center.dim() - 1)).expand_as(ball.center), L2
    raise UsageError("random projections know linf balls, and l2 balls without a box", "leave `projections` out")


def projected(
    network: Network, ball: Ball, rows: Tensor, count: int, generator: torch.Generator | None = None
) -> MarginBounds:
    """Estimates of the bounds of `dual`, with its gradients: exact margins over estimated relaxations.

    Some images at a time, and for gradients once more with the same draws: memory does not grow with the batch.

    Args:
        network: same precision as the ball.
        ball: B balls, linf (boxed or not) or l2 without a box.
        rows: functionals of the logits, [B, T, K].
        count: k, random combinations a source.
        generator: of random numbers, on the device of the ball.
    Returns:
        margins [B, T] and hidden bounds, neither of them sound.
    """
    starts = range(0, max(ball.size, 1), IMAGES)
    seeds = torch.randint(2**62, (len(starts),), generator=generator, device=ball.center.device).tolist()

    def piece(center: Tensor, eps: Tensor, own: Tensor, seed: int) -> list[Tensor]:
        drawn = torch.Generator(center.device).manual_seed(seed)
        found = _projected(network, Ball(center, eps, ball.p, ball.box), own, count, drawn)
        return [found.margins, *(side for layer in found.layers for side in (layer.lower, layer.upper))]

    pieces = []
    for start, seed in zip(starts, seeds, strict=True):
        images = slice(start, start + IMAGES)
        inputs = ball.center[images], ball.eps[images], rows[images], seed
        pieces.append(checkpoint(piece, *inputs, use_reentrant=False, preserve_rng_state=False))
    margins, *sides = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return MarginBounds(margins, [Bounds(*pair) for pair in zip(sides[::2], sides[1::2], strict=True)])


def _projected(network: Network, ball: Ball, rows: Tensor, count: int, generator: torch.Generator) -> MarginBounds:
    *hidden, last = network.blocks
    pull, middle, layers = chosen_pull(network), ball.middle(), list[Bounds]()
    scale, norm = input_source(ball)
    sources: list[Columns] = []
    for position, block in enumerate(hidden):
        middle = block(middle)
        sources = [source.through(block) for source in sources]
        fresh = []
        if block.mixing > 1 or position + 1 < len(hidden):  # behind the last hidden layer only the margins are left
            fresh = [Columns.of(scale, count, norm, generator).through(block)]
        if position == 0:
            layers.append(first_bounds(block, ball, middle, None))
        else:
            known = block.magnitude(scale) if block.mixing <= 1 else torch.zeros_like(middle)
            measured = sources if block.mixing <= 1 else [*sources, *fresh]
            radius = sum((source.norms(source.values) for source in measured), start=known)
            layers.append(Bounds(middle - radius, middle + radius))
        relaxation = parallelogram(layers[-1])
        sources = [source.times(relaxation.slope) for source in (*sources, *fresh)]
        scale, norm = relaxation.gap / 2, L1
        pull.relaxations.append(relaxation)
        middle = relaxation.slope * middle + relaxation.gap / 2
    radius = pull.row_radii(rows, ball).view(rows.shape[:2])
    return MarginBounds(at_logits(rows, last(middle)) - radius, layers)
