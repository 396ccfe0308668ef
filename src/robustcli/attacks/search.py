"""The inner loop: APGD (Croce & Hein, arXiv 2003.01690; for l1 arXiv 2103.01208) on a block of rows in lockstep.

A row is one run on one point. Rows never look at each other: a row that has succeeded is frozen, and the block ends
when all have. Blocks have a fixed number of rows, because the last bits of a matrix product depend on its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.attacks.directions import direction, movable
from robustcli.attacks.losses import Loss, margin
from robustcli.attacks.pace import Constant, Stepping, pace
from robustcli.attacks.projection import projector
from robustcli.balls import Ball
from robustcli.networks.gradients import InputGradient
from robustcli.networks.network import Network

ROWS = {"cpu": 64, "cuda": 4096}
"""Rows of one block, by device type."""

LOOK = 2
"""Passes of one look at the network: forward and backward."""

CHECK_EVERY = 5
"""Steps between two looks at whether every row is done (each look waits for the device)."""

CLEAR = 1e-5
"""A row is done when its margin is below -CLEAR (1 + |f_y|): far enough for float64 to agree with float32."""


@dataclass(frozen=True)
class Aim:
    """What each row lowers: a loss over its rivals.

    labels: [R]; rivals: [R, K] bool, never the label.
    """

    labels: Tensor
    rivals: Tensor
    loss: Loss = margin

    def values(self, logits: Tensor) -> Tensor:
        """What to lower, [R, 1], for logits [R, K]."""
        return self.loss(logits, self.labels.unsqueeze(1), self.rivals)

    def margins(self, logits: Tensor) -> Tensor:
        """Margins over all other classes, rivals or not, [R, 1], for logits [R, K]."""
        own = self.labels.unsqueeze(1)
        return logits.gather(1, own) - logits.scatter(1, own, -torch.inf).amax(1, keepdim=True)


Oracle = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def oracle(network: Network, aim: Aim, shape: torch.Size, clear: float) -> Oracle:
    """x [R, d] -> objective [R, 1], done [R, 1] bool, gradient [R, d]: one forward and one backward pass.

    Where the network's answer is no number, the objective is inf and there is no direction to follow.
    """

    slope = InputGradient(network)

    def look(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        here = slope(x.view(shape), aim.values)
        right = here.logits.gather(1, aim.labels.unsqueeze(1)).abs()
        objective = here.values.nan_to_num(torch.inf, torch.inf, -torch.inf)
        done = aim.margins(here.logits) < -clear * (1 + right)
        return objective, done, here.gradient.flatten(1).nan_to_num_(0, 0, 0)

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
    passes: Tensor

    def move_to(self, x: Tensor, look: Oracle) -> Tensor:
        """Evaluate x, keep it where it is better and the row not yet done; which rows fell, [R, 1] bool."""
        value, hit, gradient = look(x)
        self.passes = self.passes + LOOK * ~self.done
        fell = value < self.value
        better = ((value < self.best_value) | hit) & ~self.done
        chosen = better.to(x.dtype)  # lerp is exact at 0 and 1 for finite numbers, and faster than where
        self.best = self.best.lerp(x, chosen)
        self.best_value = torch.where(better, value, self.best_value)
        self.best_gradient = self.best_gradient.lerp(gradient, chosen)
        self.done = self.done | hit
        self.x, self.value, self.gradient = x, value, gradient
        return fell

    def back_to_best(self, rows: Tensor) -> None:
        """Send some rows [R, 1] back to the best point they have seen."""
        self.x = torch.where(rows, self.best, self.x)
        self.value = torch.where(rows, self.best_value, self.value)
        self.gradient = torch.where(rows, self.best_gradient, self.gradient)


@dataclass(frozen=True)
class Reached:
    """The best point each row has seen, [R, *input_shape], inside ball and box up to rounding; and its passes, [R]:
    those until it was done."""

    points: Tensor
    passes: Tensor


def search(
    network: Network, ball: Ball, aim: Aim, start: Tensor, settings: Stepping, steps: int, freeze: bool = True
) -> Tensor:
    """The points of `descend` with the steps that settings ask for."""
    return descend(network, ball, aim, start, pace(ball, settings, steps), steps, freeze).points


@torch.no_grad()
def descend(
    network: Network, ball: Ball, aim: Aim, start: Tensor, pace: Constant, steps: int, freeze: bool = True
) -> Reached:
    """The best point each row reaches: its first clear success, else its lowest objective.

    Args:
        network: in evaluation mode.
        ball: in the precision of the network, [R, *input_shape].
        aim: what the rows lower.
        start: [R, *input_shape], inside ball and box.
        pace: how long steps are.
        steps: number of gradient steps.
        freeze: stop a row at its first clear success; False goes on to the lowest objective.
    """
    shape, norm, onto = start.shape, direction(ball.p), projector(ball)
    look = oracle(network, aim, shape, CLEAR if freeze else torch.inf)
    x = start.flatten(1)
    value, done, gradient = look(x)
    state = State(x, value, gradient, done, x, value, gradient, torch.full_like(done, LOOK, dtype=torch.int64))

    def project(x: Tensor) -> Tensor:
        return onto(x.view(shape)).flatten(1)

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
    return Reached(state.best.view(shape), state.passes.squeeze(1))


def block_rows(device: torch.device) -> int:
    """Rows of one block on this kind of device."""
    return ROWS.get(device.type, ROWS["cpu"])


def padded(index: Tensor, rows: int) -> Tensor:
    """An index [n <= rows] filled up to `rows` with copies of its first entry."""
    return torch.cat([index, index[:1].expand(rows - len(index))])
