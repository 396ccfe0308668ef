"""Lower bounds of linear functionals by one backward pass through relaxed ReLUs (Fast-Lin, CROWN, alpha-CROWN).

For A g_l, g_l = relu(z_l), z_l = W_l g_{l-1} + b_l, with the lines of `relaxation`:

    A g_l  >=  B z_l + [A]_- gap_l,      B = [A]_+ lower_l + [A]_- upper_l,      then  A' = B W_l  acts on g_{l-1}

([A]_- = min(A, 0)), down to the input, where  min over the ball of A_0 x  is known exactly (`balls`). An upper bound is
minus the lower bound of the negated functional. Rows are windows while they are small (`networks.rows`).

Rounding. The lines hold exactly for slopes in [0, 1] and gaps as stored. So do rows: whatever the rounded row, the next
step bounds that very row, and only the difference to what a step should have computed is lost. With G_l >= |g_l|
(G_0 = |x| + eps) and H_l = |W_l| G_{l-1} + |b_l| >= |z_l| over the ball, the steps lose at most

    B_l b_l                        gamma_n |B_l| |b_l|
    A_{l-1} = B_l W_l              gamma_n |B_l| |W_l| G_{l-1}    (acting on g_{l-1})
    B_l from A_l                   u |B_l| H_l                    (acting on z_l; one of the two products is 0)
    [A_l]_- gap_l                  gamma_n |[A_l]_-| gap_l
    A_0 middle - reach of A_0      gamma_n |A_0| (|x| + eps)      (a reach sums terms of one sign, `balls.reach`)

in all  sum_l gamma_n ( |B_l| H_l + |[A_l]_-| gap_l ) + gamma_n |A_0| G_0,  gamma_n = n u / (1 - n u)  (Higham,
Accuracy and Stability, section 3.1), n the number of roundings in one sum. W_l and H_l go through the layers of a block
one by one, so that convolutions without a ReLU between them are counted in full. Coefficients of a window over the
padding are 0, and add nothing. It depends on the rows at hand, not on worst cases, costs one product a layer, and holds
for rows with multipliers added too.

Products below the number range are lost whole: at most `tiny` each, n in a coefficient, times the value that the
coefficient acts on. Summed over all values below this is one number per ball, `Sizes.floor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import falls
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
        floor: what products below the number range can add up to in a whole pass, [B].
    """

    inputs: Tensor
    values: list[Tensor]
    roundings: list[int]
    floor: Tensor

    @classmethod
    def of(cls, blocks: Sequence[Block], ball: Ball, layers: Sequence[Bounds]) -> Sizes:
        """Sizes behind every block, with `layers` sound bounds on the hidden ones (any more are left out)."""
        sizes = cls.at(ball)
        for position, block in enumerate(blocks):
            sizes = sizes.beyond(block, layers[position - 1] if position else None)
        return sizes

    @classmethod
    def at(cls, ball: Ball) -> Sizes:
        """Sizes of the inputs alone."""
        eps = ball.eps.view(-1, *[1] * (ball.center.dim() - 1))
        return cls(ball.center.abs() + eps, [], [], torch.zeros_like(ball.eps))

    def beyond(self, block: Block, before: Bounds | None) -> Sizes:
        """Sizes behind one more block, with sound bounds on the hidden layer below it (None: the inputs)."""
        size = self.inputs if before is None else before.upper.clamp(min=0)
        number = torch.finfo(size.dtype)
        total = 1 + size.flatten(1).sum(1)
        for layer in block.layers:
            size = layer.magnitude(size) + layer.offset_size(size)
            total = total + size.flatten(1).sum(1)
        # Twice: for the roundings in this estimate, and of n u / (1 - n u) in the end. 64: for what is done entry by
        # entry and once a layer, however deep.
        roundings = 2 * (block.roundings + max(block.units, math.prod(block.in_shape))) + 64
        return Sizes(
            self.inputs,
            [*self.values, 2 * size + number.tiny / number.eps],
            [*self.roundings, roundings],
            self.floor + 8 * roundings * number.tiny * total,
        )

    def rounding(self, layer: int) -> Tensor:
        """How far rounding can move the values of a layer, [B, *out_shape], or interval bounds on them computed from
        values no larger than those the sizes allow."""
        floor = self.floor.view(-1, *[1] * (self.values[layer].dim() - 1))
        return _gamma(self.roundings[layer], floor) * self.values[layer] + floor


def lowest(rows: Rows, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None = None) -> Tensor:
    """Lower bounds of functionals of the last block's output over each row's ball, [n].

    Args:
        rows: acting on the output of the last of `blocks`.
        blocks: from the input on.
        slopes: lines of all hidden layers below.
        ball: B balls.
        sizes: of at least these blocks: the bound is then safe against rounding; None leaves rounding out.
    """
    value, error = _crossing(rows, blocks, len(blocks) - 1, sizes)
    return _down(rows.through(blocks[-1]), value, error, blocks, slopes, ball, sizes)


def both_ends(
    rows: Rows, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the same functionals, two [n]; arguments as in `lowest`.

    The last block is passed once for both. `slopes` sees the rows of the lower bounds first, then the negated ones.
    """
    value, error = _crossing(rows, blocks, len(blocks) - 1, sizes)
    return _ends(rows.through(blocks[-1]), value, error, blocks, slopes, ball, sizes)


def unit_ends(
    image: Tensor, unit: Tensor, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """`both_ends` of chosen outputs of the last block: unit[i] (flat index) of image[i], two [n] each."""
    value = blocks[-1].offset().flatten().index_select(0, unit)
    error = torch.zeros_like(value)
    if sizes is not None:
        flat = image * blocks[-1].units + unit
        error = _gamma(sizes.roundings[len(blocks) - 1], value) * sizes.values[len(blocks) - 1].flatten()[flat]
    return _ends(Rows.outputs(blocks[-1], image, unit), value, error, blocks, slopes, ball, sizes)


def _ends(
    pulled: Rows,
    value: Tensor,
    error: Tensor,
    blocks: Sequence[Block],
    slopes: Slopes,
    ball: Ball,
    sizes: Sizes | None,
) -> tuple[Tensor, Tensor]:
    both = torch.cat([value, -value]), torch.cat([error, error])
    found = _down(_mirrored(pulled), *both, blocks, slopes, ball, sizes)
    return found[: len(value)], -found[len(value) :]


def _down(
    rows: Rows, value: Tensor, error: Tensor, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None
) -> Tensor:
    """The rest of the pass for rows that crossed the last block, and what they have collected there."""
    for layer in range(len(blocks) - 2, -1, -1):
        lower, upper, gap = slopes.at(layer, rows)
        negative = rows.values.clamp(max=0)
        lost = _dot(negative, gap)
        rows = replace(rows, values=torch.addcmul((rows.values - negative) * lower, negative, upper))
        added, rounded = _crossing(rows, blocks, layer, sizes)
        value, error = value + lost + added, error + rounded
        if sizes is not None:
            error = error - _gamma(sizes.roundings[layer], lost) * lost
        rows = rows.through(blocks[layer])
    down = falls(rows, ball)
    middle = _dot(rows.values, rows.gather(ball.middle()))
    if sizes is not None:
        error = error + _gamma(sizes.roundings[0], value) * _dot(rows.values.abs(), rows.gather(sizes.inputs))
        value = value - 2 * error - sizes.floor.index_select(0, rows.image)
    return value + middle - down


def _crossing(rows: Rows, blocks: Sequence[Block], layer: int, sizes: Sizes | None) -> tuple[Tensor, Tensor]:
    """What rows on a block's output gain from its bias, and what they lose by rounding on their way to its input."""
    value = offsets(rows, blocks[layer])
    if sizes is None:
        return value, torch.zeros_like(value)
    return value, _gamma(sizes.roundings[layer], value) * _dot(rows.values.abs(), rows.gather(sizes.values[layer]))


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


def _gamma(roundings: int, like: Tensor) -> float:
    unit = torch.finfo(like.dtype).eps / 2
    return roundings * unit / (1 - roundings * unit)
