"""Lower bounds of linear functionals by one backward pass through relaxed ReLUs (Fast-Lin, CROWN, alpha-CROWN).

The pass follows how far values move from those at the middle x* of the ball, z*_l = W_l g*_{l-1} + b_l and
g*_l = relu(z*_l). With the lines of `relaxation`, and z = z* + z', g = g* + g':

    A g'_l  >=  B z'_l - lost_l,     B = [A]_+ lower_l + [A]_- upper_l,     z'_l = W_l g'_{l-1},    then  A' = B W_l
    lost_l  =  [A]_+ (g*_l - lower_l z*_l)  +  [-A]_+ (upper_l z*_l + gap_l - g*_l)  >=  0

down to the input, where  A_0 x' >= -reach of A_0  is known exactly (`balls`). A functional c of the last z is at least

    c z*  -  sum_l lost_l  -  reach of A_0,

its value at the middle less numbers of one sign. No bias enters, and nothing that rounding moves is larger than the
distances that values move within the ball. An upper bound is minus the lower bound of the negated functional. Rows are
windows while they are small (`networks.rows`).

Rounding. The lines hold exactly for slopes in [0, 1] and gaps as stored. So do rows: whatever the rounded row, the next
step bounds that very row, and only the difference to what a step should have computed is lost. With the sizes of values
R >= |g'|, S >= |W g'| and H >= |z| over the ball (`sizes`), the steps lose at most

    A_{l-1} = B_l W_l              gamma_n |B_l| S_l        n roundings in one entry, those of weights included
    B_l from A_l                   u |B_l| S_l              (one of the two products is 0)
    z*_l = W_l g*_{l-1} + b_l      gamma_k |B_l| H_l        k roundings in one sum, in the precision of the balls
    lost_l, reach of A_0           gamma_m of themselves    sums of m numbers of one sign

(Higham, Accuracy and Stability, section 3.1; gamma_n = n u / (1 - n u)). |B_l| <= [A]_+ lower_l + [-A]_+ upper_l: all
but the last line are paid by wider gaps between the lines, and cost nothing more. Rows may therefore be pulled back in
a lower precision than that of the network and the balls (`precision`): the rows' u multiplies S_l, lost_l and the reach
only, which are no larger than the ball makes them. Coefficients of a window over the padding are 0, and add nothing.

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
from robustcli.bounds.relaxation import Lines
from robustcli.bounds.sizes import Shifted, Sizes
from robustcli.bounds.summing import total
from robustcli.networks.network import Block
from robustcli.networks.rows import Rows


class Slopes(Protocol):
    """Where a backward pass finds its lines."""

    def at(self, layer: int, rows: Rows, sizes: Sizes) -> Shifted:
        """For rows acting on the outputs of hidden layer `layer` (0-based), each like `rows.values`; no slope where a
        window hangs over the padding."""
        ...


@dataclass(frozen=True)
class Shared:
    """The same lines for all rows of an image, their slopes numbers that the precision of the rows holds."""

    lines: Sequence[Lines]

    def at(self, layer: int, rows: Rows, sizes: Sizes) -> Shifted:
        found = sizes.shifted(layer, self.lines[layer], rows.values.dtype, math.prod(rows.values.shape[1:]))
        lower, upper, below, above = (rows.gather(each) for each in found)
        return lower, upper, below, above

    def take(self, index: Tensor | slice) -> Shared:
        """The lines of some of the points."""
        return Shared([each.take(index) for each in self.lines])


def lowest(
    rows: Rows,
    blocks: Sequence[Block],
    slopes: Slopes,
    ball: Ball,
    sizes: Sizes | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Lower bounds of functionals of the last block's output over each row's ball, [n].

    Args:
        rows: acting on the output of the last of `blocks`, in the precision of the ball.
        blocks: from the input on.
        slopes: lines of all hidden layers below.
        ball: B balls.
        sizes: of at least these blocks: the bound is then safe against rounding; None leaves rounding out.
        dtype: precision of `blocks`, in which rows are pulled back; None: that of the rows.
    """
    sizes = Sizes.of(blocks, ball, None) if sizes is None else sizes
    last, dtype = len(blocks) - 1, dtype or rows.values.dtype
    size = rows.values.abs()
    value = _dot(rows.values, rows.gather(sizes.middle[last]))
    loss = _dot(size, rows.gather(sizes.drift(last, dtype)))
    share = sizes.gamma(2 * math.prod(rows.values.shape[1:]), value.dtype)  # of the sum that the value is
    loss = loss + share * _dot(size, rows.gather(sizes.middle[last].abs()))
    below = replace(rows, values=rows.values.to(dtype)).through(blocks[-1])
    return _less(value, loss + _lost(below, blocks[:-1], slopes, sizes), rows.image, dtype, sizes)


def both_ends(
    rows: Rows, blocks: Sequence[Block], slopes: Slopes, ball: Ball, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the same functionals, two [n]; arguments as in `lowest`."""
    negated = replace(rows, values=-rows.values)
    return lowest(rows, blocks, slopes, ball, sizes), -lowest(negated, blocks, slopes, ball, sizes)


def unit_ends(
    image: Tensor, unit: Tensor, blocks: Sequence[Block], slopes: Shared, ball: Ball, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """`both_ends` of chosen outputs of the last block: unit[i] (flat index) of image[i], two [n] each.

    The rows are in the precision of `blocks`; all else is in the ball's, if that is another. Lines that all units of a
    layer share cost their rows one product for all units together.
    """
    sizes = Sizes.of(blocks, ball, None) if sizes is None else sizes
    *below, block = blocks
    rows, layer, flat = Rows.outputs(block, image, unit), len(below), image * block.units + unit
    dtype = rows.values.dtype
    value = sizes.middle[layer].flatten().index_select(0, flat)
    loss = sizes.drift(layer, dtype).flatten().index_select(0, flat).repeat(2)
    if below:
        lines = sizes.shifted(layer - 1, slopes.lines[layer - 1], dtype, math.prod(rows.values.shape[1:]))
        rows, lost = _both_pulled(rows, block, flat, lines, sizes)
        loss = loss + lost + _lost(rows.through(below[-1]), below[:-1], slopes, sizes)
    else:
        loss = loss + _lost(_mirrored(rows, rows.values, -rows.values), [], slopes, sizes)
    found = _less(torch.cat([value, -value]), loss, image.repeat(2), dtype, sizes)
    return found[: len(value)], -found[len(value) :]


def _both_pulled(rows: Rows, block: Block, flat: Tensor, lines: Shifted, sizes: Sizes) -> tuple[Rows, Tensor]:
    """The block's own rows, of its outputs `flat` [n], and the negated ones pulled through the lines below it, and what
    they lose there, [2 n]."""
    lower, upper, below, above = lines
    positive = rows.values.clamp(min=0)
    negative = positive - rows.values
    low, high = rows.gather(lower), rows.gather(upper)
    pulled = _mirrored(rows, positive * low - negative * high, negative * low - positive * high)
    if block.mixing > 1:
        under, over = rows.gather(below), rows.gather(above)
        lost = positive * under + negative * over, negative * under + positive * over
        return pulled, torch.cat([total(each) for each in lost])
    # [W]_+ below + [-W]_+ above, and the signs changed: two products with the whole layer.
    even, odd = block.magnitude((below + above) / 2), block.linear((below - above) / 2)
    even = even * (1 + 2 * sizes.gamma(block.fan_in + 16, even.dtype))
    return pulled, torch.cat([each.flatten().index_select(0, flat) for each in (even + odd, even - odd)])


def _lost(rows: Rows, blocks: Sequence[Block], slopes: Slopes, sizes: Sizes) -> Tensor:
    """How far rows acting on what goes into the block above `blocks` can fall below their value at the middle, [n]."""
    loss = torch.zeros_like(sizes.floor).index_select(0, rows.image)
    for layer in range(len(blocks) - 1, -1, -1):
        lower, upper, below, above = slopes.at(layer, rows, sizes)
        negative = rows.values.clamp(max=0)
        positive = rows.values - negative
        loss = loss + total(torch.addcmul(positive * below, negative, above, value=-1))
        rows = replace(rows, values=torch.addcmul(positive * lower, negative, upper)).through(blocks[layer])
    dtype, room = rows.values.dtype, sizes.room
    share = sizes.gamma(room.roundings(math.prod(rows.values.shape[1:])), dtype)
    return loss + (1 + share) * room.to(dtype).fall(rows)


def _mirrored(rows: Rows, values: Tensor, negated: Tensor) -> Rows:
    """Rows with other values, and then with these."""
    window = rows.window
    if window is not None:
        window = replace(window, position=window.position.repeat(2))
    return Rows(rows.image.repeat(2), torch.cat([values, negated]), rows.shape, window)


def _less(value: Tensor, loss: Tensor, image: Tensor, dtype: torch.dtype, sizes: Sizes) -> Tensor:
    """value - loss for images `image`, [n], rounded down; `dtype` of the rows."""
    if not sizes.outward:
        return value - loss
    tiny = torch.finfo(dtype).tiny / torch.finfo(value.dtype).tiny
    error = sizes.gamma(16, value.dtype) * (value.abs() + loss) + tiny * sizes.floor.index_select(0, image)
    return value - loss - error


def offsets(rows: Rows, block: Block) -> Tensor:
    """What the block's bias adds to each row, [n]. Entries of a window over the padding must be zero."""
    offset = block.offset()
    if rows.window is None:
        return rows.values.flatten(1) @ offset.flatten()
    return _dot(rows.values, replace(rows, image=torch.zeros_like(rows.image)).gather(offset.unsqueeze(0)))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
