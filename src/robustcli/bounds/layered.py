"""Bounds whose backward passes have free numbers, raised layer by layer: what alpha-CROWN and the ball offset share.

Hidden layers come first to last, each on the optimised bounds of those below; the margins come before, on the bounds at
hand, and again after them where that was not enough. Only rows whose sign is open are searched for.

The search runs in float32, image by image on a CPU, so that a point's result is the same whatever else is in the batch;
the numbers it finds are evaluated once in the network's own precision, safe against rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.optimiser import Ascent, Free, ascend
from robustcli.bounds.sizes import Sizes
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows

CHUNK_NUMBERS = 1 << 20  # slopes of hidden rows searched at once; about ten times as many numbers are held
SEARCH_SLACK = 16 * torch.finfo(torch.float32).eps  # of the largest values: what the search may be off by


@dataclass(frozen=True)
class Effort:
    """How hard to search.

    Args:
        margins: for the rows asked for.
        hidden: for the bounds of hidden units; None takes them as they are known.
        enough: a margin above this is raised no further (0: proved), and where all are, hidden bounds stay as they are;
            None raises all of them as far as the iterations go.
    """

    margins: Ascent = field(default_factory=Ascent)
    hidden: Ascent | None = field(default_factory=Ascent)
    enough: float | None = 0.0


class Relaxation(Protocol):
    """A way to relax hidden layers with free numbers, for the balls of some images."""

    def free(self, layers: Sequence[Bounds]) -> Free:
        """Free numbers, not yet made, for rows above hidden layers with these bounds; all in float32."""
        ...

    def lowest(
        self,
        numbers: Sequence[Tensor],
        rows: Rows,
        blocks: Sequence[Block],
        layers: Sequence[Bounds],
        ball: Ball,
        sizes: Sizes | None,
    ) -> Tensor:
        """`backward.lowest` with the numbers found (those of `Free.numbers`), in the precision of the rows."""
        ...

    def own(self, layers: Sequence[Bounds], known: Bounds) -> Bounds:
        """`known` bounds of the layer behind `layers`, made tighter by what the relaxation knows without any row."""
        ...


def raised(
    network: Network,
    ball: Ball,
    rows: Tensor,
    start: MarginBounds,
    relaxation: Callable[[Ball, slice], Relaxation],
    effort: Effort,
    outward: bool,
) -> MarginBounds:
    """Sound bounds `start`, made tighter.

    Args:
        network, ball, rows, outward: as for every bound.
        start: sound margins [B, T] and hidden bounds.
        relaxation: made for the balls of the images of a slice.
    """
    if ball.size == 0:
        return start
    single = [_Constant(block) for block in copy.deepcopy(network).float().requires_grad_(False).blocks]
    count = 1 if ball.center.device.type == "cpu" else ball.size
    found = []
    for first in range(0, ball.size, count):
        images = slice(first, first + count)
        chosen = ball.take(images)
        search = _Search(network.blocks, single, chosen, relaxation(chosen, images), outward)
        at_hand = MarginBounds(start.margins[images], [bounds.take(images) for bounds in start.layers])
        found.append(search.raised(rows[images], at_hand, effort))
    layers = [
        Bounds(torch.cat([bounds.lower for bounds in layer]), torch.cat([bounds.upper for bounds in layer]))
        for layer in zip(*(each.layers for each in found), strict=True)
    ]
    return MarginBounds(torch.cat([each.margins for each in found]), layers)


class _Constant(Block):
    """A block whose weights stay as they are: every step of a search asks for its offset."""

    def __init__(self, block: Block) -> None:
        super().__init__(block.layers)
        self._offset = block.offset()

    def offset(self) -> Tensor:
        return self._offset


@dataclass(frozen=True)
class _Search:
    """What rows of some images meet on their way down: the blocks in the network's precision and in float32, balls."""

    blocks: Sequence[Block]
    single: Sequence[Block]
    ball: Ball
    relaxation: Relaxation
    outward: bool

    def raised(self, rows: Tensor, start: MarginBounds, effort: Effort) -> MarginBounds:
        enough = math.inf if effort.enough is None else effort.enough
        margins = self.margins(rows, start.margins, start.layers, effort.margins, enough)
        if effort.hidden is None or (effort.enough is not None and bool((margins > enough).all())):
            return MarginBounds(margins, start.layers)
        layers: list[Bounds] = []
        for known in start.layers:
            bounds = self.relaxation.own(layers, known)
            layers.append(self.hidden(bounds, layers, effort.hidden) if layers else bounds)
        return MarginBounds(self.margins(rows, margins, layers, effort.margins, enough), layers)

    def margins(self, rows: Tensor, known: Tensor, layers: Sequence[Bounds], settings: Ascent, enough: float) -> Tensor:
        """The known margins [b, T], those raised that are not above `enough`."""
        image, target = (~(known > enough)).nonzero(as_tuple=True)
        if len(image) == 0:
            return known
        chosen = Rows(image, rows[image, target], tuple(rows.shape[2:]))
        found = self.lowest(chosen, layers, settings, lambda bounds: bounds > enough)
        return known.index_put((image, target), torch.fmax(known[image, target], found))

    def hidden(self, known: Bounds, layers: Sequence[Bounds], settings: Ascent) -> Bounds:
        """Bounds on the layer behind `layers`, optimised where the known ones leave the sign open."""
        block = self.blocks[len(layers)]
        image, unit = known.unstable.flatten(1).nonzero(as_tuple=True)
        if len(unit) == 0:
            return known
        lower, upper = known.lower.flatten().clone(), known.upper.flatten().clone()

        def settled(bounds: Tensor) -> Tensor:
            return (bounds.view(2, -1) > 0).any(0).repeat(2)

        count = self._units_at_once(len(layers))
        for images, units in zip(image.split(count), unit.split(count), strict=True):
            ends = Rows.units(block.out_shape, images.repeat(2), units.repeat(2), lower.dtype)
            ends.values[len(units) :].neg_()
            below, above = self.lowest(ends, layers, settings, settled).view(2, -1)
            flat = images * block.units + units
            lower[flat] = torch.fmax(lower[flat], below)  # fmax: what is not a number proves nothing
            upper[flat] = torch.fmin(upper[flat], -above)
        return Bounds(lower.view_as(known.lower), upper.view_as(known.upper))

    def lowest(
        self, rows: Rows, layers: Sequence[Bounds], settings: Ascent, enough: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Lower bounds of rows acting on the outputs of the block behind `layers`, [n], each with numbers of its own;
        `enough` says of lower bounds [n] which need not be raised further."""
        blocks, single = self.blocks[: len(layers) + 1], self.single[: len(layers) + 1]
        sizes = Sizes.of(blocks, self.ball, layers)
        slack = SEARCH_SLACK * (rows.values.abs() * rows.gather(sizes.values[-1])).flatten(1).sum(1)
        free = self.relaxation.free([Bounds(bounds.lower.float(), bounds.upper.float()) for bounds in layers])
        start = replace(rows, values=rows.values.float())
        ball = self.ball.to(torch.float32)
        numbers = ascend(start, single, free, ball, settings, lambda found: enough(found - slack))
        return self.relaxation.lowest(numbers, rows, blocks, layers, self.ball, sizes if self.outward else None)

    def _units_at_once(self, depth: int) -> int:
        block = self.blocks[depth]
        width = block.fan_in if len(block.out_shape) == 3 else sum(each.units for each in self.blocks[:depth])
        return max(16, CHUNK_NUMBERS // (2 * width))
