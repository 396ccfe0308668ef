"""PDPGD: primal-dual proximal gradient descent (Matyasko & Chau 2021, arXiv 2106.01538), for l1, l2 and linf.

    min ||delta||_p  such that  m(x0 + delta) <= 0:   min over delta, max over l of  l_0 ||delta||_p + l_1 softplus(m)

The point takes an Adam step on softplus(m), is clipped, and then some proximal steps on (l_0 / l_1) ||.||_p in Adam's
metric (ProxGen, arXiv 1910.10094), all in units of the longest side of the box. The weights l = softmax(0, theta),
averaged over steps, follow the constraint: theta rises by a learning rate where the point is still classified correctly
and falls where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustcli.attacks.closest import Kept, Sight, both_passes, closest, unit
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.settings_nearest import PdpgdSettings
from robustcli.balls import vector_norm

LAST_RATE, LAST_DUAL_RATE = 0.01, 0.1
"""The last learning rates, as shares of the first."""
AVERAGE = 0.9
"""Share of the old weights in their running mean."""
MOST = math.log(1e6)
"""theta stays within."""
SETTLED = 1e-2
"""Relative change at which a row's proximal steps end."""


def pdpgd(task: Task, settings: PdpgdSettings) -> Found:
    """The nearest misclassified points that PDPGD finds; l1, l2, linf."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return _run(Sight.of(rows), numbers, settings), both_passes(rows.labels, settings.steps)

    return closest(task, settings.restarts, search, tuple(PROXIMAL))


def _run(sight: Sight, numbers: Tensor, settings: PdpgdSettings) -> Tensor:
    move = torch.zeros_like(sight.center)
    kept, instead, adam = Kept.none(move), sight.afresh(), Adam(move)
    theta = torch.full_like(sight.reach, -math.log(settings.ratio)).clamp(-MOST, MOST)
    weights = _weights(theta)
    for step in range(settings.steps):
        seen = sight.look(sight.center + move)
        kept.see(move, sight.length(move), seen.wrong)
        if step == 0:
            radius = torch.minimum(2 * sight.estimate(seen.margin, seen.gradient), sight.limit)
            move = sight.random_moves(numbers, radius)
        stuck = vector_norm(seen.gradient, 2.0).unsqueeze(1) <= 1e-12
        gradient = torch.where(stuck, unit(seen.gradient, instead, step), seen.gradient)
        adam.take(sight.side * gradient * seen.margin.clamp(-80, 80).sigmoid())
        rate = settings.rate * LAST_RATE ** (step / settings.steps)
        move = sight.clip(move - sight.side * rate * adam.direction())
        ratio = weights[:, :1] / weights[:, 1:]
        move = _proximal(sight, move, adam.scale(), ratio, rate, settings.proximal_steps)
        left = (settings.steps - 1 - step) / (settings.steps - 1)
        dual_rate = settings.dual_rate * (left * (1 - LAST_DUAL_RATE) + LAST_DUAL_RATE)
        theta = (theta + dual_rate * torch.where(seen.wrong, -1.0, 1.0)).clamp(-MOST, MOST)
        weights = AVERAGE * weights + (1 - AVERAGE) * _weights(theta)
    return kept.move


def _weights(theta: Tensor) -> Tensor:
    """softmax(0, theta), [R, 2]: of the distance and of the margin."""
    return torch.cat([torch.zeros_like(theta), theta], 1).softmax(1)


class Adam:
    """Adam's running moments of the rows' gradients, [R, d]."""

    def __init__(self, like: Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.betas, self.steps = betas, 0

    def take(self, gradient: Tensor) -> None:
        """One more gradient."""
        self.first = self.betas[0] * self.first + (1 - self.betas[0]) * gradient
        self.second = self.betas[1] * self.second + (1 - self.betas[1]) * gradient * gradient
        self.steps += 1

    def scale(self) -> Tensor:
        """sqrt of the second moment, corrected and kept away from 0."""
        return self.second.sqrt() / math.sqrt(1 - self.betas[1] ** self.steps) + 1e-8

    def direction(self) -> Tensor:
        """The step for learning rate 1, upwards."""
        return self.first / (1 - self.betas[0] ** self.steps) / self.scale()


def _proximal(sight: Sight, move: Tensor, scale: Tensor, ratio: Tensor, rate: float, steps: int) -> Tensor:
    """argmin over z of ratio ||z||_p + ||z - move||^2_scale / (2 rate) in the box, in units of its side, by proximal
    gradient steps."""
    largest = scale.amax(1, keepdim=True)
    weight, metric = sight.side * ratio * rate / largest, scale / largest
    proximal = PROXIMAL[sight.p]
    now = move
    going = torch.ones_like(ratio, dtype=torch.bool)
    for _ in range(steps):
        last = now
        now = torch.where(going, sight.clip(proximal(last - metric * (last - move), weight)), last)
        change = vector_norm(now - last, 2.0) / vector_norm(now, 2.0).clamp(min=1e-30)
        going = change.unsqueeze(1) > SETTLED
    return now


def _soft_threshold(v: Tensor, weight: Tensor) -> Tensor:
    return v.sign() * (v.abs() - weight).clamp(min=0)


def _shrunk(v: Tensor, weight: Tensor) -> Tensor:
    return v * (1 - weight / vector_norm(v, 2.0).unsqueeze(1).clamp(min=1e-30)).clamp(min=0)


def _capped(v: Tensor, weight: Tensor) -> Tensor:
    """v cut at +-t, t >= 0 such that `weight` is cut off in all (0 where there is less): sort, then solve the piece."""
    size = v.abs().sort(dim=1, descending=True).values
    counts = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    # With the n largest coordinates cut the height is t_n; it is largest for the right n.
    height = ((size.cumsum(1) - weight) / counts).amax(1, keepdim=True).clamp(min=0)
    return torch.minimum(torch.maximum(v, -height), height)


PROXIMAL: dict[float, Callable[[Tensor, Tensor], Tensor]] = {1.0: _soft_threshold, 2.0: _shrunk, math.inf: _capped}
"""argmin over z of weight ||z||_p + ||z - v||_2^2 / 2, by p."""
