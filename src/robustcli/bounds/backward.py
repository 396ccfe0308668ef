"""Lower bounds of linear functionals by one backward pass through relaxed ReLUs (Fast-Lin, CROWN, alpha-CROWN).

For A g_l, g_l = relu(z_l), z_l = W_l g_{l-1} + b_l, with the lines of `relaxation`:

    A g_l  >=  B z_l + [A]_- gap_l,      B = [A]_+ lower_l + [A]_- upper_l,      then  A' = B W_l  acts on g_{l-1}

([A]_- = min(A, 0)), down to the input, where  min over the ball of A_0 x  is known exactly (`balls`). An upper bound is
minus the lower bound of the negated functional. Rows are windows while they are small (`networks.rows`).

Rounding. The lines hold exactly for slopes and gaps as stored, whatever they are. What is lost is what the sums round:
with G_l >= |g_l| and H_l = |W_l| G_{l-1} + |b_l| >= |z_l| (`sizes`), a pass that computes rows B_l is off by at most

    sum_l gamma_n ( |B_l| H_l + |[A_l]_-| gap_l )  +  gamma_d |A_0| (|x| + eps),       gamma_n = n u / (1 - n u)

(Higham, Accuracy and Stability, section 3.1), n the number of roundings in one sum. It depends on the rows at hand, not
on worst cases, costs one product a layer, and holds for slopes outside [0, 1] and for rows with multipliers added too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import reaches
from robustcli.bounds.relaxation import Lines
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Block
from robustcli.networks.rows import Rows


class Slopes(Protocol):
    """Where a backward pass finds its lines."""

    def at(self, layer: int, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """lower, upper, gap for rows acting on the outputs of hidden layer `layer` (0-based), each like `rows.values`;
        zero where a window hangs over the padding."""
        ...


@dataclass(frozen=True)
class Shared:
    """The same lines for all rows of an image."""

    lines: Sequence[Lines]

    def at(self, layer: int, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        found = self.lines[layer]
        return rows.gather(found.lower), rows.gather(found.upper), rows.gather(found.gap)


@dataclass(frozen=True)
class Sizes:
    """How large values can be over each ball: what rounding errors are measured against.

    Args:
        inputs: |x| + eps, [B, *input_shape].
        values: H_l >= |z_l| of every hidden layer and of the logits, [B, *out_shape] each.
        roundings: n of one sum at each of these layers.
    """

    inputs: Tensor
    values: list[Tensor]
    roundings: list[int]

    @classmethod
    def of(cls, blocks: Sequence[Block], ball: Ball, layers: Sequence[Bounds]) -> Sizes:
        """Sizes behind every block, with `layers` sound bounds on the hidden ones (those of the last block left out)."""
        eps = ball.eps.view(-1, *[1] * (ball.center.dim() - 1))
        inputs = ball.center.abs() + eps
        below, values, roundings = inputs, [], []
        for position, block in enumerate(blocks):
            values.append(2 * (block.magnitude(below) + block.offset_size().unsqueeze(0)))  # 2: its own rounding
            roundings.append(2 * (block.roundings + max(block.units, math.prod(block.in_shape))) + 64)
            if position < len(layers):
                below = layers[position].upper.clamp(min=0)
        return cls(inputs, values, roundings)


def lowest(
    rows: Rows, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None = None
) -> Tensor:
    """Lower bounds of functionals of the last block's output over each row's ball, [n].

    Args:
        rows: acting on the output of the last of `blocks`.
        blocks: from the input on.
        slopes: lines of all hidden layers below.
        ball: B balls.
        sizes: of at least these blocks: the bound is then safe against rounding; None leaves rounding out.
    """
    return _down(rows, blocks, slopes, ball, sizes, pulled=None)


def both_ends(
    rows: Rows, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the same functionals, two [n]; arguments as in `lowest`.

    The last block is passed once for both. `slopes` sees the rows of the lower bounds first, then the negated ones.
    """
    pulled = rows.through(blocks[-1])
    found = _down(_mirrored(rows), blocks, slopes, ball, sizes, _mirrored(pulled))
    return found[: len(rows)], -found[len(rows) :]


def _down(
    rows: Rows, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None, pulled: Rows | None
) -> Tensor:
    value = rows.values.new_zeros(len(rows))
    error = rows.values.new_zeros(len(rows))
    for layer in range(len(blocks) - 1, -1, -1):
        value = value + offsets(rows, blocks[layer])
        if sizes is not None:
            error = error + _gamma(sizes.roundings[layer], rows) * _dot(rows.values.abs(), rows.gather(sizes.values[layer]))
        rows = rows.through(blocks[layer]) if pulled is None else pulled
        pulled = None
        if layer == 0:
            break
        lower, upper, gap = slopes.at(layer - 1, rows)
        negative = rows.values.clamp(max=0)
        lost = _dot(negative, gap)
        value = value + lost
        if sizes is not None:
            error = error - _gamma(sizes.roundings[layer - 1], rows) * lost
        rows = replace(rows, values=(rows.values - negative) * lower + negative * upper)
    down, _ = reaches(rows, ball)
    middle = _dot(rows.values, rows.gather(ball.middle()))
    if sizes is not None:
        error = error + _gamma(sizes.roundings[0], rows) * _dot(rows.values.abs(), rows.gather(sizes.inputs))
        value = value - 2 * error - 64 * torch.finfo(value.dtype).tiny * sizes.roundings[-1]
    return value + middle - down


def offsets(rows: Rows, block: Block) -> Tensor:
    """What the block's bias adds to each row, [n]. Entries of a window over the padding must be zero."""
    offset = block.offset()
    if rows.window is None:
        return rows.values.flatten(1) @ offset.flatten()
    return _dot(rows.values, replace(rows, image=torch.zeros_like(rows.image)).gather(offset.unsqueeze(0)))


def _mirrored(rows: Rows) -> Rows:
    """The rows, then the same rows negated."""
    window = rows.window
    if window is not None:
        window = replace(window, position=window.position.repeat(2))
    return Rows(rows.image.repeat(2), torch.cat([rows.values, -rows.values]), rows.shape, window)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _gamma(roundings: int, rows: Rows) -> float:
    unit = torch.finfo(rows.values.dtype).eps / 2
    return roundings * unit / (1 - roundings * unit)
