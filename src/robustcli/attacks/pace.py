"""How long steps are and how that is adapted: constant steps, APGD (arXiv 2003.01690), l1-APGD (arXiv 2103.01208)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from robustcli.attacks.directions import direction
from robustcli.balls import Ball

if TYPE_CHECKING:
    from robustcli.attacks.search import State

FIRST_SHARE = 0.2
"""Share of coordinates moved by the first adaptive l1 steps."""


class Stepping(Protocol):
    """The part of an attack's settings that says how to step."""

    @property
    def step_size(self) -> float | None:
        """Constant step in units of the norm; None: adaptive steps (APGD)."""
        ...

    @property
    def sparsity(self) -> float | None:
        """l1: share of coordinates moved in one step; None: adaptive (l1-APGD)."""
        ...


class Constant:
    """Steps of one length, without memory (the protocol of 000, 001 and 003)."""

    def __init__(self, length: Tensor, share: Tensor, momentum: float = 1.0) -> None:
        self.length, self.share, self.momentum = length, share, momentum

    def after(self, step: int, fell: Tensor, state: State) -> Tensor | None:
        """Rows to send back to their best point: none."""
        return None


class Halving(Constant):
    """APGD's checkpoints: a row that stopped making progress halves its step and goes back to its best point."""

    def __init__(self, length: Tensor, share: Tensor, momentum: float, steps: int) -> None:
        super().__init__(length, share, momentum)
        self.checkpoints = checkpoints(steps)
        self.last = 0
        self.falls = torch.zeros_like(length)
        self.halved = torch.ones_like(length, dtype=torch.bool)
        self.best_then: Tensor | None = None

    def after(self, step: int, fell: Tensor, state: State) -> Tensor | None:
        self.falls = self.falls + fell.to(self.length.dtype)
        if step + 1 not in self.checkpoints:
            return None
        slow = self.falls <= 0.75 * (step + 1 - self.last)
        best = self.best_then if self.best_then is not None else torch.full_like(state.best_value, torch.inf)
        stuck = ~self.halved & (state.best_value >= best)
        back = slow | stuck
        self.length = torch.where(back, self.length / 2, self.length)
        self.halved, self.best_then, self.falls, self.last = (
            back,
            state.best_value,
            torch.zeros_like(self.falls),
            step + 1,
        )
        return back


class Sparsifying(Constant):
    """l1-APGD: the share of coordinates moved follows the sparsity of the best point found."""

    def __init__(self, length: Tensor, share: Tensor, center: Tensor, steps: int) -> None:
        super().__init__(length, share)
        self.center, self.longest = center, length
        self.every = max(int(0.04 * steps), 1)
        self.old = torch.full_like(length, center.shape[1])

    def after(self, step: int, fell: Tensor, state: State) -> Tensor | None:
        if (step + 1) % self.every:
            return None
        moved = (state.best != self.center).sum(1, keepdim=True).to(self.length.dtype)
        sparser = moved < 0.95 * self.old
        self.share = moved / (1.5 * self.center.shape[1])
        shorter = torch.maximum(self.length / 1.5, self.longest / 10)
        self.length = torch.where(sparser, self.longest, shorter)
        self.old = moved
        return sparser


def checkpoints(steps: int) -> frozenset[int]:
    """APGD's checkpoints: the first after 22 % of the steps, then intervals shrinking by 3 % down to 6 %."""
    interval, at = max(int(0.22 * steps), 1), max(int(0.22 * steps), 1)
    found = set()
    while at <= steps:
        found.add(at)
        interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        at += interval
    return frozenset(found)


def pace(ball: Ball, settings: Stepping, steps: int) -> Constant:
    """The steps that settings ask for."""
    eps = ball.eps.unsqueeze(1)
    if settings.step_size is not None:
        share = settings.sparsity if settings.sparsity is not None else 0.01
        return Constant(torch.full_like(eps, settings.step_size), torch.full_like(eps, share))
    return adaptive(ball, steps, settings.sparsity)


def adaptive(ball: Ball, steps: int, sparsity: float | None = None) -> Constant:
    """APGD's steps; for l1 those of l1-APGD, unless the share of coordinates moved at once is given."""
    eps, norm = ball.eps.unsqueeze(1), direction(ball.p)
    length = norm.first_step * eps
    if ball.p == 1 and sparsity is None:
        first = torch.full_like(eps, FIRST_SHARE)
        return Sparsifying(length, first, ball.center.flatten(1), steps)
    return Halving(length, torch.full_like(eps, sparsity or 1.0), norm.momentum, steps)
