"""Ascent on slopes and multipliers of many domains at once: Adam on the concave-like dual, with gradients by hand.

One step is one backward pass for the bound and one forward pass for its gradient (`passes.forward`); no graph is kept.
It runs in float32 and proves nothing: what it finds is evaluated once in float64 (`passes.proved`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.branch_and_bound.passes import Phases, backward, forward
from robustcli.branch_and_bound.system import Functionals, System

MEAN, SQUARE, GUARD = 0.9, 0.999, 1e-8  # Adam's constants
FRESH = 0.15  # weight of the newest minimiser in the mean
CHECK_EVERY = 4  # steps between two looks at which domains are closed


@dataclass(frozen=True)
class Schedule:
    """Adam's steps: `slope` and `multiplier` are learning rates, both times `decay` after every step."""

    steps: int
    slope: float
    multiplier: float
    decay: float = 0.98


ROOT = Schedule(60, 0.1, 0.0)
INSIDE = Schedule(8, 0.1, 0.2)
LONG = Schedule(24, 0.1, 0.2, 0.92)


@dataclass(frozen=True)
class Ascent:
    """The best found for D domains: theta [D, n], its float32 bound [D], the minimiser of that bound [D, d], and the
    running mean of the minimisers on the way [D, d]."""

    theta: Tensor
    value: Tensor
    points: Tensor
    means: Tensor


@torch.no_grad()
def ascend(
    system: System,
    start: Functionals,
    signs: Tensor,
    theta: Tensor,
    schedule: Schedule,
    enough: float,
) -> Ascent:
    """Raise the bounds of D domains.

    Args:
        system: float32.
        start: what is bounded, D functionals.
        signs: S, [D, n] int8.
        theta: where to start, [D, n].
        schedule: steps and learning rates.
        enough: a domain whose bound is above this is done.
    """
    work = Work.of(system, start, signs, theta, schedule)
    center = system.center.expand(len(theta), -1)
    best = Ascent(theta.clone(), theta.new_full((len(theta),), -torch.inf), center.clone(), center.clone())
    for step in range(schedule.steps + 1):
        found = backward(system, work.start, work.phases, work.theta)
        x = system.minimiser(found.rows)
        value = found.value + (found.rows * x).sum(1)
        better = value > best.value[work.index]
        where = work.index[better]
        best.theta[where], best.value[where], best.points[where] = work.theta[better], value[better], x[better]
        best.means[work.index] = x if step == 0 else torch.lerp(best.means[work.index], x, FRESH)
        if step == schedule.steps:
            break
        above = found.above
        if step % CHECK_EVERY == 0:
            left = (best.value[work.index] <= enough).nonzero().squeeze(1)
            if len(left) == 0:
                break
            if len(left) <= 0.8 * len(work.index):
                work, above, x = work.take(left), above[left], x[left]
        z, _ = forward(system, work.phases, work.theta, above, x)
        work.climb(torch.addcmul(work.phases.signs * z, work.phases.free * z, above.clamp(min=0)), step, schedule.decay)
    return best


@dataclass
class Work:
    """The domains still being improved: `index` says which, the rest is theirs (Adam's moments included)."""

    index: Tensor
    start: Functionals
    phases: Phases
    theta: Tensor
    rate: Tensor
    top: Tensor
    mean: Tensor
    square: Tensor

    @classmethod
    def of(cls, system: System, start: Functionals, signs: Tensor, theta: Tensor, schedule: Schedule) -> Work:
        phases = Phases.of(system, signs)
        rate = phases.free * schedule.slope + (1 - phases.free) * schedule.multiplier
        top = torch.full_like(theta, torch.inf).masked_fill(signs == 0, 1.0)
        index = torch.arange(len(theta), device=theta.device)
        return cls(index, start, phases, theta.clone(), rate, top, torch.zeros_like(theta), torch.zeros_like(theta))

    def take(self, left: Tensor) -> Work:
        """Some of the domains."""
        parts = (self.theta, self.rate, self.top, self.mean, self.square)
        return Work(self.index[left], self.start.take(left), self.phases.take(left), *(part[left] for part in parts))

    def climb(self, gradient: Tensor, step: int, decay: float) -> None:
        """One step of Adam upwards, back into [0, 1] for slopes and [0, inf) for multipliers."""
        self.mean.lerp_(gradient, 1 - MEAN)
        self.square.mul_(SQUARE).addcmul_(gradient, gradient, value=1 - SQUARE)
        scale = decay**step * (1 - SQUARE ** (step + 1)) ** 0.5 / (1 - MEAN ** (step + 1))
        move = self.mean / self.square.sqrt().add_(GUARD)
        self.theta = torch.minimum(torch.addcmul(self.theta, move, self.rate, value=scale).clamp_(min=0), self.top)
