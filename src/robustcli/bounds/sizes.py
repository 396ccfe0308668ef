"""Where values lie, how far they move and how large they can be: what backward passes start from and round against.

The notation is that of `backward`: z*_l and g*_l at the middle of a ball, moves z' = z - z* and g' = g - g*.

    R_0 = room around the middle,          R_l >= |g'_l|    (by bounds on z_l, or as |z'_l|)
    S_l = |W_l| R_{l-1}                    >= |W_l g'_{l-1}|
    G_0 = |x| + eps,                       G_l >= |g_l|     (by bounds on z_l)
    H_l = |W_l| G_{l-1} + |b_l|            >= |z_l|

W_l goes through the layers of a block one by one, so that convolutions without a ReLU between them are counted in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import Room
from robustcli.bounds.relaxation import Lines
from robustcli.bounds.summing import additions, gamma, upward
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Block
from robustcli.networks.rows import Rows, pull_roundings

Shifted = tuple[Tensor, Tensor, Tensor, Tensor]
"""lower, upper, below, above with lower z' - below <= g' <= upper z' + above, rounding paid by the last two."""


@dataclass(frozen=True)
class Sizes:
    """Values at the middle of each ball, their moves and their sizes, layer by layer.

    Args:
        room: around the middle of the inputs.
        start: the middle, [B, *input_shape].
        inputs: |x| + eps, [B, *input_shape].
        middle: z*_l of every hidden layer and of the logits, [B, *out_shape] each.
        moves: S_l of these.
        values: H_l >= |z_l| of these.
        roundings: of one sum at each of them, over inputs, outputs or all values of a layer.
        pulls: of one coefficient on a row's way through each block.
        floor: what products below the number range can add up to in a whole pass, [B].
        outward: False leaves rounding out; `moves`, `values`, `roundings` and `pulls` are then empty.
    """

    room: Room
    start: Tensor
    inputs: Tensor
    middle: list[Tensor]
    moves: list[Tensor]
    values: list[Tensor]
    roundings: list[int]
    pulls: list[int]
    floor: Tensor
    outward: bool = True

    @classmethod
    def of(cls, blocks: Sequence[Block], ball: Ball, layers: Sequence[Bounds] | None) -> Sizes:
        """Sizes behind every block, with `layers` sound bounds on the hidden ones (any more are left out); without any,
        rounding is left out."""
        sizes = cls.at(ball, layers is not None)
        for position, block in enumerate(blocks):
            sizes = sizes.beyond(block, layers[position - 1] if layers is not None and position else None)
        return sizes

    @classmethod
    def at(cls, ball: Ball, outward: bool = True) -> Sizes:
        """Sizes of the inputs alone."""
        eps = ball.eps.view(-1, *[1] * (ball.center.dim() - 1))
        inputs, room = ball.center.abs() + eps, Room.of(ball)
        if outward:
            unit = torch.finfo(inputs.dtype).eps
            room = room.widened(4 * unit * inputs, 4 * unit)
        return cls(room, ball.middle(), inputs, [], [], [], [], [], torch.zeros_like(ball.eps), outward)

    def beyond(self, block: Block, before: Bounds | None) -> Sizes:
        """Sizes behind one more block, with sound bounds on the hidden layer below it (None: the inputs)."""
        middle = [*self.middle, block(self.middle[-1].relu() if self.middle else self.start)]
        if not self.outward:
            return replace(self, middle=middle)
        size = self.inputs if before is None else before.upper.clamp(min=0)
        number = torch.finfo(size.dtype)
        total = 1 + size.flatten(1).sum(1)
        for layer in block.layers:
            size = layer.magnitude(size) + layer.offset_size(size)
            total = total + size.flatten(1).sum(1)
        # Twice: for the roundings in this estimate, and of n u / (1 - n u) in the end. 64: for what is done entry by
        # entry and once a layer, however deep.
        roundings = 2 * (block.roundings + max(block.units, math.prod(block.in_shape))) + 64
        return replace(
            self,
            middle=middle,
            moves=[*self.moves, (1 + self.gamma(roundings, size.dtype)) * block.magnitude(self._relu_moves(before))],
            values=[*self.values, 2 * size + number.tiny / number.eps],
            roundings=[*self.roundings, roundings],
            pulls=[*self.pulls, pull_roundings(block)],
            floor=self.floor + 8 * roundings * number.tiny * total,
        )

    def _relu_moves(self, before: Bounds | None) -> Tensor:
        """R of the layer with these bounds: |relu(z) - relu(z*)|, by them or by |z - z*|."""
        if before is None:
            return torch.maximum(self.room.down, self.room.up)
        here = self.middle[-1].relu()
        bounded = torch.maximum(before.upper.relu() - here, here - before.lower.relu()).clamp(min=0)
        return torch.fmin(bounded, self.moves[-1] + self.drift(len(self.moves) - 1, here.dtype))

    def gamma(self, roundings: int, dtype: torch.dtype) -> float:
        """What so many roundings change, as a share; 0 where rounding is left out."""
        return gamma(roundings, dtype) if self.outward else 0.0

    def drift(self, layer: int, dtype: torch.dtype) -> Tensor:
        """What B_l z_l may lose by rounding on its way to the layer below for |B_l| = 1 and rows of this precision."""
        if not self.outward:
            return torch.zeros_like(self.middle[layer])
        own = self.gamma(self.roundings[layer], self.inputs.dtype) * self.values[layer]
        return self.gamma(self.pulls[layer], dtype) * self.moves[layer] + own

    def shifted(self, layer: int, lines: Lines, dtype: torch.dtype, summands: int) -> Shifted:
        """Lines around the middle of a layer for rows in some precision with so many coefficients, [B, *shape] each."""
        around = self.middle[layer], self.drift(layer, dtype)
        below, above = self._intercepts(*around, lines.lower, lines.upper, lines.gap, dtype, summands)
        below, above = (upward(side.clamp(min=0), dtype) for side in (below, above))
        return lines.lower.to(dtype), lines.upper.to(dtype), below, above

    def seen(self, layer: int, rows: Rows, lower: Tensor, upper: Tensor, gap: Tensor) -> Shifted:
        """The same for lines of each row's own, all like `rows.values`; they may bound only together with what is lost
        elsewhere."""
        dtype, summands = rows.values.dtype, math.prod(rows.values.shape[1:])
        around = rows.gather(self.middle[layer]), rows.gather(self.drift(layer, dtype))
        return lower, upper, *self._intercepts(*around, lower, upper, gap, dtype, summands)

    def _intercepts(
        self,
        middle: Tensor,
        drift: Tensor,
        lower: Tensor,
        upper: Tensor,
        gap: Tensor,
        dtype: torch.dtype,
        summands: int,
    ) -> tuple[Tensor, Tensor]:
        here = middle.relu()
        below, above = here - lower * middle, upper * middle + gap - here
        own = self.gamma(8, middle.dtype) * (middle.abs() + gap)
        share = self.gamma(additions(summands) + 8, dtype)
        below = below + share * below.abs() + lower * drift + own
        return below, above + share * above.abs() + upper * drift + own

    def rounding(self, layer: int) -> Tensor:
        """How far rounding can move the values of a layer, [B, *out_shape], or interval bounds on them computed from
        values no larger than those the sizes allow."""
        floor = self.floor.view(-1, *[1] * (self.values[layer].dim() - 1))
        return self.gamma(self.roundings[layer], floor.dtype) * self.values[layer] + floor

    def take(self, index: Tensor | slice) -> Sizes:
        """Sizes for some of the balls."""
        middle, moves, values = ([each[index] for each in some] for some in (self.middle, self.moves, self.values))
        start, inputs, floor, room = self.start[index], self.inputs[index], self.floor[index], self.room.take(index)
        return replace(
            self, room=room, start=start, inputs=inputs, middle=middle, moves=moves, values=values, floor=floor
        )
