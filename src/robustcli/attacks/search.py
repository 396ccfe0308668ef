"""The inner loop: APGD (Croce & Hein, arXiv 2003.01690; for l1 arXiv 2103.01208) on a block of rows in lockstep.

A row is one run on one point. Rows never look at each other: a row that has succeeded is frozen, and the block ends
when all have. Blocks have a fixed number of rows, because the last bits of a matrix product depend on its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.attacks.directions import Direction, direction, movable
from robustcli.attacks.projection import projector
from robustcli.attacks.settings import PgdSettings
from robustcli.balls import Ball
from robustcli.networks.network import Network

ROWS = {"cpu": 64, "cuda": 4096}
"""Rows of one block, by device type."""

CHECK_EVERY = 5
"""Steps between two looks at whether every row is done (each look waits for the device)."""

CLEAR = 1e-5
"""A row is done when its margin is below -CLEAR (1 + |f_y|): far enough for float64 to agree with float32."""

FIRST_SHARE = 0.2
"""Share of coordinates moved by the first adaptive l1 steps."""


@dataclass(frozen=True)
class Aim:
    """What each row lowers: f_y - max over `rivals` of f_t, or, where `entropy` is set, minus the cross-entropy.

    labels: [R]; rivals: [R, K] bool, never the label; entropy: [R, 1] bool or None for none.
    """

    labels: Tensor
    rivals: Tensor
    entropy: Tensor | None = None

    def values(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Objective to lower and full margin, both [R, 1], for logits [R, K]."""
        own = self.labels.unsqueeze(1)
        right = logits.gather(1, own)
        against = right - logits.masked_fill(~self.rivals, -torch.inf).amax(1, keepdim=True)
        margin = right.detach() - logits.detach().scatter(1, own, -torch.inf).amax(1, keepdim=True)
        if self.entropy is None:
            return against, margin
        return torch.where(self.entropy, right - logits.logsumexp(1, keepdim=True), against), margin


Oracle = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def oracle(network: Network, aim: Aim, shape: torch.Size, clear: float) -> Oracle:
    """x [R, d] -> objective [R, 1], done [R, 1] bool, gradient [R, d]: one forward and one backward pass."""

    def look(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().view(shape).requires_grad_()
            logits = network(x)
            objective, margin = aim.values(logits)
            (gradient,) = torch.autograd.grad(objective.sum(), x)
        right = logits.detach().gather(1, aim.labels.unsqueeze(1)).abs()
        return objective.detach(), margin < -clear * (1 + right), gradient.flatten(1)

    return look


@dataclass
class State:
    """Where the rows are, and the best they have seen. All [R, d] or [R, 1]."""

    x: Tensor
    value: Tensor
    gradient: Tensor
    done: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor

    def move_to(self, x: Tensor, look: Oracle) -> Tensor:
        """Evaluate x, keep it where it is better and the row not yet done; which rows fell, [R, 1] bool."""
        value, hit, gradient = look(x)
        fell = value < self.value
        better = ((value < self.best_value) | hit) & ~self.done
        self.best = torch.where(better, x, self.best)
        self.best_value = torch.where(better, value, self.best_value)
        self.best_gradient = torch.where(better, gradient, self.best_gradient)
        self.done = self.done | hit
        self.x, self.value, self.gradient = x, value, gradient
        return fell

    def back_to_best(self, rows: Tensor) -> None:
        """Send some rows [R, 1] back to the best point they have seen."""
        self.x = torch.where(rows, self.best, self.x)
        self.value = torch.where(rows, self.best_value, self.value)
        self.gradient = torch.where(rows, self.best_gradient, self.gradient)


@torch.no_grad()
def search(
    network: Network, ball: Ball, aim: Aim, start: Tensor, settings: PgdSettings, steps: int, freeze: bool = True
) -> Tensor:
    """The best point each row reaches: its first clear success, else its lowest objective.

    Args:
        network: in evaluation mode.
        ball: in the precision of the network, [R, *input_shape].
        aim: what the rows lower.
        start: [R, *input_shape], inside ball and box.
        settings: step_size, sparsity.
        steps: number of gradient steps.
        freeze: stop a row at its first clear success; False goes on to the lowest objective.
    Returns:
        [R, *input_shape], inside ball and box up to rounding.
    """
    shape, norm, onto = start.shape, direction(ball.p), projector(ball)
    look = oracle(network, aim, shape, CLEAR if freeze else torch.inf)
    x = start.flatten(1)
    value, done, gradient = look(x)
    state = State(x, value, gradient, done, x, value, gradient)

    def project(x: Tensor) -> Tensor:
        return onto(x.view(shape)).flatten(1)

    pace = _pace(ball, norm, settings, steps)
    before = x
    for step in range(steps):
        if step % CHECK_EVERY == 0 and bool(state.done.all()):
            break
        descent = norm.step(movable(state.gradient, state.x, ball), pace.share)
        target = project(state.x - pace.length * descent)
        if pace.momentum < 1 and step > 0:
            kept = state.x + pace.momentum * (target - state.x) + (1 - pace.momentum) * (state.x - before)
            target = project(kept)
        before = state.x
        fell = state.move_to(target, look)
        back = pace.after(step, fell, state)
        if back is not None:
            state.back_to_best(back)
            before = torch.where(back, state.x, before)
    return state.best.view(shape)


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


def _pace(ball: Ball, norm: Direction, settings: PgdSettings, steps: int) -> Constant:
    eps = ball.eps.unsqueeze(1)
    if settings.step_size is not None:
        share = settings.sparsity if settings.sparsity is not None else 0.01
        return Constant(torch.full_like(eps, settings.step_size), torch.full_like(eps, share))
    length = norm.first_step * eps
    if ball.p == 1 and settings.sparsity is None:
        first = torch.full_like(eps, FIRST_SHARE)
        return Sparsifying(length, first, ball.center.flatten(1), steps)
    return Halving(length, torch.full_like(eps, settings.sparsity or 1.0), norm.momentum, steps)


def block_rows(device: torch.device) -> int:
    """Rows of one block on this kind of device."""
    return ROWS.get(device.type, ROWS["cpu"])


def padded(index: Tensor, rows: int) -> Tensor:
    """An index [n <= rows] filled up to `rows` with copies of its first entry."""
    return torch.cat([index, index[:1].expand(rows - len(index))])
