"""The nearest misclassified point by searches at a radius per point, doubled until one succeeds, then bisected.

Each success is first pulled back along the segment to the point. Searches from far outside and searches from the best
witness so far take turns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.closest import Sight, closest
from robustcli.attacks.contract import Found, Task, shortest
from robustcli.attacks.pace import pace
from robustcli.attacks.projection import projector
from robustcli.attacks.search import Aim, descend
from robustcli.attacks.segment import pulled
from robustcli.attacks.settings import NearestSettings, WideSettings
from robustcli.attacks.wide import inwards, phases, random_start, scaled
from robustcli.balls import Ball

SEGMENT_STEPS = 10
"""Forward passes of the pull after each round, in the precision of the network."""


def nearest(task: Task, settings: NearestSettings) -> Found:
    """Misclassified points as near as the search finds them; l1, l2, linf.

    Where a misclassified point is known (`task.near`), the first radius is 0.9 times its distance, else half as much
    again as a linear estimate.
    """

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return _Rounds(rows, settings).run()

    return closest(task, 1, search, (1.0, 2.0, math.inf))


class _Rounds:
    """The state of one block: per row a radius that failed, the best witness [R, *input_shape], and its distance."""

    def __init__(self, task: Task, settings: NearestSettings) -> None:
        self.task, self.sight, self.rounds = task, Sight.of(task), settings.rounds
        self.effort = WideSettings(steps=settings.steps)
        self.rough = task.ball.to(task.network.dtype)
        self.aim = Aim(task.labels, task.rivals)
        self.best = task.ball.center.clone()
        self.distance = torch.full_like(task.ball.eps, torch.inf)
        self.failed = torch.zeros_like(self.distance)
        self.passes = torch.full_like(task.labels, 2)

    def run(self) -> tuple[Tensor, Tensor]:
        """All rounds: moves [R, d] and passes [R]."""
        radius, widest = self._first(), self.sight.limit.squeeze(1).to(self.distance)
        for number in range(self.rounds):
            radius = radius.minimum(widest)
            self._round(radius, number)
            middle = (self.failed + self.distance) / 2
            radius = torch.where(self.distance.isfinite(), middle, 2 * radius)
        return (self.best - self.task.ball.center).flatten(1), self.passes

    def _first(self) -> Tensor:
        seen = self.sight.look(self.sight.center)
        linear = (1.5 * self.sight.estimate(seen.margin, seen.gradient)).clamp(min=1e-6).squeeze(1)
        known = 0.9 * self.task.ball.distance(self.task.near)
        return torch.where(known.isfinite() & (known > 0), known, linear.to(known))

    def _round(self, radius: Tensor, number: int) -> None:
        """One search for every row, at its own radius."""
        task = self.task
        ball = Ball(self.rough.center, radius.to(self.rough.eps), self.rough.p, self.rough.box)
        if number % 2 == 0:
            plan = phases(self.effort)
            start = random_start(scaled(ball, plan[0].multiple), task.seeds, number)
            reached = inwards(task.network, ball, self.aim, start, plan, lambda stage, n: pace(stage, self.effort, n))
        else:
            start = projector(ball)(self.best.to(self.rough.center))
            steps = self.effort.steps
            reached = descend(task.network, ball, self.aim, start, pace(ball, self.effort, steps), steps)
        self.passes = self.passes + reached.passes
        self._keep(reached.points.to(torch.float64), radius)

    def _keep(self, points: Tensor, radius: Tensor) -> None:
        """Pull back what was found, keep what is nearer, and note the radii that failed."""
        task = self.task
        near = pulled(task.network, task.ball.center, task.labels, points, task.ball.box, SEGMENT_STEPS)
        found = task.judge(near).or_else(task.judge(points), shortest)
        fell = found.distances < self.distance
        self.best = torch.where(fell.view(-1, *[1] * (points.dim() - 1)), found.points, self.best)
        self.distance = torch.where(fell, found.distances, self.distance)
        self.failed = torch.where(fell, self.failed, radius.minimum(self.distance))
        self.passes = self.passes + SEGMENT_STEPS + 4
