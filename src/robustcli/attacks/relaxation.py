"""Starts where the relaxation is weakest: minimisers of linear lower bounds of the margins.

A backward pass through relaxed ReLUs (`bounds.backward`) leaves, for every rival class t,

    f_y(z) - f_t(z)  >=  <A_t, z> + a_t      on the ball,

and z* = argmin over ball and box of <A_t, z> is where that bound puts the smallest margin: A_t is a gradient of the
whole ball instead of a point. Searches against t start there, for the lines of the KW dual (parallel) and of CROWN
(adaptive); branch and bound evaluates the same points. Classes whose bound is above 0 cannot win, and are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task, lowest_margin
from robustcli.attacks.pace import adaptive
from robustcli.attacks.search import Aim, descend, padded
from robustcli.attacks.settings_regions import RelaxationSettings
from robustcli.attacks.training import evaluating
from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.relaxation import Lines, Rule, lines, parallel
from robustcli.bounds.relaxation import adaptive as crown_slopes
from robustcli.boxes import covering_radius
from robustcli.networks.network import Network, margin_rows
from robustcli.regions.affine import adjoint

RULES: tuple[Rule, ...] = (parallel, crown_slopes)
"""Lower slopes, in the order of the runs."""


def relaxation(task: Task, settings: RelaxationSettings) -> Found:
    """Look for a misclassified point of each ball from the minimisers of lower bounds (goal: a fixed radius; l1, l2,
    linf).

    Args:
        task: balls of any size; one larger than the box counts as the ball that covers it.
        settings: classes and steps of the runs.
    """
    limit = covering_radius(task.ball.p, math.prod(task.network.input_shape), task.ball.box)
    ball = Ball(task.ball.center, task.ball.eps.clamp(max=limit), task.ball.p, task.ball.box)
    task = replace(task, ball=ball)
    found = task.nothing()
    todo = (~found.success & ball.eps.isfinite() & (ball.eps > 0) & task.rivals.any(1)).nonzero().squeeze(1)
    with evaluating(task.network):
        for block, part in task.take(todo).blocks():
            rows = todo[block]
            weak = weakest(task.exact, ball.take(rows), task.labels[rows])
            found = found.with_rows(rows, _Block(part, weak.filled(len(part))).run(settings))
    return found


@dataclass(frozen=True)
class Weakest:
    """Bounds and their minimisers.

    bounds: the KW dual's of f_y - f_t over the balls; [B, K], inf at t = y.
    points: minimisers of each rule's bound, [rules, B, K, *input_shape]; the centre at t = y.
    """

    bounds: Tensor
    points: Tensor

    def filled(self, rows: int) -> Weakest:
        """With copies of the first ball's, as in a block of so many rows."""
        index = padded(torch.arange(len(self.bounds), device=self.bounds.device), rows)
        return Weakest(self.bounds[index], self.points[:, index])


@torch.no_grad()
def weakest(exact: Network, ball: Ball, labels: Tensor) -> Weakest:
    """The points of each ball where linear lower bounds are smallest.

    Args:
        exact: float64.
        ball: in float64, of finite radius.
        labels: [B].
    """
    count, classes = len(labels), exact.classes
    rows, others = margin_rows(labels, classes, ball.center.dtype)
    bound = dual(exact, ball, rows)
    index = others.view(count, -1, *[1] * (ball.center.dim() - 1)).expand(-1, -1, *ball.center.shape[1:])
    found = []
    for rule in RULES:
        relaxed = [lines(layer, rule(layer)) for layer in bound.layers]
        whole = ball.center.unsqueeze(1).repeat(1, classes, *[1] * (ball.center.dim() - 1))
        found.append(whole.scatter(1, index, ball.minimiser(pulled_through(exact, relaxed, rows))))
    bounds = torch.full((count, classes), torch.inf).to(bound.margins).scatter(1, others, bound.margins)
    return Weakest(bounds, torch.stack(found))


def pulled_through(network: Network, relaxed: list[Lines], rows: Tensor) -> Tensor:
    """The linear part of the lower bounds of rows [B, T, K] @ logits, functionals of the input [B, T, *input_shape].

    Below each ReLU an entry goes on along the line below where it is positive, else along the line above.
    """
    for block, line in zip(reversed(network.blocks[1:]), reversed(relaxed), strict=True):
        rows = adjoint(block, rows)
        rows = rows.clamp(min=0) * line.lower.unsqueeze(1) + rows.clamp(max=0) * line.upper.unsqueeze(1)
    return adjoint(network.blocks[0], rows)


@dataclass(frozen=True)
class _Block:
    """A block of points and their weakest ones."""

    task: Task
    weak: Weakest

    def run(self, settings: RelaxationSettings) -> Found:
        """One run per class and rule, the class of the lowest bound first, until one succeeds."""
        task, bounds = self.task, self.weak.bounds
        reachable = task.rivals & (bounds <= 0)
        order = bounds.masked_fill(~reachable, torch.inf).argsort(dim=1, stable=True)
        found = task.nothing()
        for place in range(min(settings.targets, task.network.classes - 1)):
            target = order[:, place]
            for points in self.weak.points:
                aimed = reachable.gather(1, target.unsqueeze(1)).squeeze(1) & ~found.success
                if not bool(aimed.any()):
                    continue
                run = self._search(points, target, settings.steps)
                better = found.or_else(run, lowest_margin)
                found = _where(aimed, better, found)
        return found

    def _search(self, points: Tensor, target: Tensor, steps: int) -> Found:
        task = self.task
        ball = task.ball.to(task.network.dtype)
        start = points[torch.arange(len(target), device=target.device), target].to(ball.center.dtype)
        rivals = torch.nn.functional.one_hot(target, task.network.classes).bool()
        reached = descend(task.network, ball, Aim(task.labels, rivals), start, adaptive(ball, steps), steps)
        return task.judge(reached.points).spent(reached.passes)


def _where(chosen: Tensor, one: Found, other: Found) -> Found:
    """Row by row one answer or the other."""
    index = chosen.nonzero().squeeze(1)
    return other.with_rows(index, one.take(index))
