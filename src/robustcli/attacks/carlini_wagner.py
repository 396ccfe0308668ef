"""Carlini & Wagner's l2 attack (IEEE S&P 2017, arXiv 1608.04644): a penalty, a free variable, a search for the weight.

    min over w of  ||x(w) - x0||_2^2 + c max(f_y - max f_t, 0),      x(w) = middle + half side * tanh(w)

by Adam, for several c: times ten until something misclassified turns up, then bisected. Without a box x(w) = x0 + w.
Lengths count in units of the longest side of the box.
A row that a tenth of the steps has not brought further rests until its next c.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustcli.attacks.closest import Kept, Sight, closest
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.pdpgd import Adam
from robustcli.attacks.settings_nearest import CarliniWagnerSettings

Map = Callable[[Tensor], Tensor]

INSIDE = 1 - 1e-6
"""Keeps artanh finite at the ends of the box."""
LARGEST = 1e10
"""Stands for a weight without end."""
REPEATED = 10
"""From so many searches on, the last one takes the smallest weight that succeeded."""


def carlini_wagner(task: Task, settings: CarliniWagnerSettings) -> Found:
    """The nearest misclassified points that Carlini & Wagner's attack finds, l2."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return _run(Sight.of(rows), settings)

    return closest(task, 1, search, (2.0,))


class Penalties:
    """The weights c of the rows, [R, 1], and what is known of the right ones: too small, large enough."""

    def __init__(self, like: Tensor, first: float, searches: int) -> None:
        self.now, self.searches = torch.full_like(like, first), searches
        self.small, self.enough = torch.zeros_like(like), torch.full_like(like, LARGEST)

    def begin(self, number: int) -> Tensor:
        """The weights of search `number`."""
        if self.searches >= REPEATED and number == self.searches - 1:
            self.now = self.enough
        return self.now

    def end(self, succeeded: Tensor) -> None:
        """What the search has shown, [R, 1] bool."""
        self.enough = torch.where(succeeded, torch.minimum(self.enough, self.now), self.enough)
        self.small = torch.where(succeeded, self.small, torch.maximum(self.small, self.now))
        bracketed = self.enough < LARGEST
        self.now = torch.where(bracketed, (self.small + self.enough) / 2, (10 * self.now).clamp(max=LARGEST))


class Progress:
    """Which rows still move: those whose smallest loss fell by a ten-thousandth in the last tenth of the steps."""

    def __init__(self, like: Tensor, steps: int, used: bool) -> None:
        self.every, self.used = max(steps // 10, 1), used
        self.live = torch.ones_like(like, dtype=torch.bool)
        self.smallest = self.before = torch.full_like(like, torch.inf)

    def over(self, step: int, loss: Tensor) -> bool:
        """Whether all rows rest; `loss`: [R, 1]."""
        self.smallest = torch.minimum(self.smallest, loss)
        if not self.used or step % self.every:
            return False
        self.live = self.live & (self.smallest <= 0.9999 * self.before)
        self.before = self.smallest
        return not bool(self.live.any())


def _run(sight: Sight, settings: CarliniWagnerSettings) -> tuple[Tensor, Tensor]:
    x_of, slope_of, start = _variable(sight)
    kept = Kept.none(sight.center)
    weights = Penalties(sight.reach, settings.constant, settings.searches)
    spent = torch.zeros_like(sight.labels)
    for number in range(settings.searches):
        weight = weights.begin(number)
        w, adam, succeeded = start, Adam(start), torch.zeros_like(weight, dtype=torch.bool)
        progress = Progress(weight, settings.steps, settings.abort_early)
        for step in range(settings.steps):
            move = x_of(w) - sight.center
            seen = sight.look(sight.center + move)
            hit = seen.wrong & progress.live
            kept.see(move, sight.length(move), hit)
            succeeded = succeeded | hit
            spent = spent + 2 * progress.live.squeeze(1)
            unit = move / sight.side
            loss = (unit * unit).sum(1, keepdim=True) + weight * seen.margin.clamp(min=0)
            if progress.over(step, loss):
                break
            pull = 2 * unit / sight.side + weight * seen.gradient * (seen.margin > 0)
            adam.take(pull * slope_of(w))
            w = w - settings.rate * adam.direction()
        weights.end(succeeded)
    return kept.move, spent


def _variable(sight: Sight) -> tuple[Map, Map, Tensor]:
    """x(w), its slope, and the w of the centre, all [R, d]."""
    if sight.box is None:
        return (lambda w: sight.center + w), torch.ones_like, torch.zeros_like(sight.center)
    low, high = sight.ends
    middle, half = (low + high) / 2, (high - low) / 2
    place = torch.where(half > 0, (sight.center - middle) / torch.where(half > 0, half, 1.0), 0.0)
    start = (place * INSIDE).atanh()

    def x_of(w: Tensor) -> Tensor:
        return middle + half * w.tanh()

    def slope_of(w: Tensor) -> Tensor:
        return half / w.cosh().square()

    return x_of, slope_of, start
