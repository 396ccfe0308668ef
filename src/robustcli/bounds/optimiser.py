"""Gradient ascent on the free numbers of a backward pass, slopes and multipliers, of which each row has its own.

Any slopes in [0, 1] and any multipliers >= 0 give a sound bound, so the search may be inexact: it runs in float32 on a
short form of `backward.lowest` without rounding errors, and what it found is evaluated once more where it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from robustcli.balls import Ball
from robustcli.bounds.backward import offsets
from robustcli.bounds.interval import falls
from robustcli.networks.network import Block
from robustcli.networks.rows import Rows

LOOK_EVERY = 4  # iterations between two looks at which rows are done: packing the others costs about half an iteration


@dataclass(frozen=True)
class Ascent:
    """How to search: Adam (Kingma and Ba 2015), its step shrinking by `decay` an iteration.

    Args:
        iterations: evaluations of the bound, the first one at the start.
        rate: first step.
        decay: of the step.
    """

    iterations: int = 20
    rate: float = 0.3
    decay: float = 0.98


class Free(Protocol):
    """The free numbers of n rows, and how hidden layers are relaxed with them."""

    def relax(self, layer: int, rows: Rows) -> tuple[Rows, Tensor]:
        """Rows acting on the outputs of hidden layer `layer` as rows acting on its pre-activations, and what that
        costs, [n]; differentiable in the free numbers, which are made when the first rows arrive."""
        ...

    def numbers(self) -> list[Tensor]:
        """All free numbers, [n, ...] each."""
        ...

    def project(self) -> None:
        """Put the free numbers back to where they give sound bounds."""
        ...

    def keep(self, index: Tensor) -> None:
        """Forget all rows but these."""
        ...


def ascend(
    rows: Rows,
    blocks: Sequence[Block],
    free: Free,
    ball: Ball,
    settings: Ascent,
    enough: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Free numbers that make the bounds of `backward.lowest` large: the best of all iterations, for every row.

    Args:
        rows, blocks, ball: as in `backward.lowest`, one precision.
        free: of these rows; used up.
        enough: bounds [n] -> which rows need no better one, [n] bool.
    """
    active = torch.arange(len(rows), device=rows.image.device)
    top, rows, blocks = offsets(rows, blocks[-1]), rows.through(blocks[-1]), blocks[:-1]
    found = _value(top, rows, blocks, free, ball)
    best, kept = found.detach().clone(), [number.detach().clone() for number in free.numbers()]
    means, squares = ([torch.zeros_like(number) for number in kept] for _ in range(2))
    steps = [torch.zeros((), device=active.device) for _ in kept]
    for iteration in range(settings.iterations - 1):
        if iteration % LOOK_EVERY == 0:
            index = (~enough(best)).index_select(0, active).nonzero().squeeze(1)
            if len(index) == 0:
                break
            if len(index) < len(active):
                active, top, rows = active.index_select(0, index), top.index_select(0, index), _take(rows, index)
                means, squares = ([state.index_select(0, index) for state in both] for both in (means, squares))
                free.keep(index)
                found = _value(top, rows, blocks, free, ball)
        numbers = free.numbers()
        gradients = list(torch.autograd.grad(found, numbers, torch.ones_like(found)))
        with torch.no_grad():
            adam(
                numbers, gradients, means, squares, [], steps,
                fused=True, amsgrad=False, beta1=0.9, beta2=0.999,
                lr=settings.rate * settings.decay**iteration, weight_decay=0.0, eps=1e-8, maximize=True,
            )  # fmt: skip
            free.project()
        found = _value(top, rows, blocks, free, ball)
        better = (found.detach() > best.index_select(0, active)).nonzero().squeeze(1)
        where = active.index_select(0, better)
        best.index_copy_(0, where, found.detach().index_select(0, better))
        for store, number in zip(kept, numbers, strict=True):
            store.index_copy_(0, where, number.detach().index_select(0, better))
    return kept


@torch.enable_grad()
def _value(top: Tensor, rows: Rows, blocks: Sequence[Block], free: Free, ball: Ball) -> Tensor:
    """`backward.lowest` for rows that went through the last block, which does not change them and added `top`."""
    found = top
    for layer in range(len(blocks) - 1, -1, -1):
        rows, lost = free.relax(layer, rows)
        found = found + lost + offsets(rows, blocks[layer])
        rows = rows.through(blocks[layer])
    down = falls(rows, ball)
    return found + (rows.values * rows.gather(ball.middle())).flatten(1).sum(1) - down


def _take(rows: Rows, index: Tensor) -> Rows:
    window = rows.window
    if window is not None:
        window = replace(window, position=window.position.index_select(0, index))
    return Rows(rows.image.index_select(0, index), rows.values.index_select(0, index), rows.shape, window)
