"""Minimal-norm attacks that work point by point in float64, on the linear pieces around a misclassified point.

Each starts from the nearest misclassified point known or, where none is, from one that a search finds: in balls of
twice the radius again and again, then pulled back along the segment to x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task, shortest
from robustcli.attacks.noise import streams
from robustcli.attacks.pace import adaptive
from robustcli.attacks.search import Aim, descend, padded
from robustcli.attacks.segment import STEPS, pulled
from robustcli.attacks.settings_regions import StartSettings
from robustcli.attacks.training import evaluating
from robustcli.attacks.wide import random_start
from robustcli.balls import Ball, vector_norm
from robustcli.boxes import covering_radius
from robustcli.networks.gradients import InputGradient
from robustcli.networks.network import margins
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.pieces import Piece
from robustcli.regions.row_norms import hidden_norms

Improve = Callable[[Incumbent, Piece, Tensor], int]
"""(the point known, improved in place; its linear piece; the point's seed [1]) -> passes spent."""

FIRST = streams("first point")

OWN_PASSES = 6
"""Passes besides the searches for a first point: two for the first radius, four that judge centre, start and ends."""

BACK_PASSES = STEPS + 4
"""Passes that end a search: the pull back to the border, and the judgement of both ends."""


def improved(task: Task, settings: StartSettings, improve: Improve) -> Found:
    """What `improve` makes of the nearest misclassified points known, judged in the balls of the task; never farther
    than the start. Points beyond a ball are starts too."""
    with evaluating(task.network):
        start = first_points(task, settings)
    points, passes = start.points.clone(), start.passes.clone()
    for row in (start.distances.isfinite() & (start.distances > 0)).nonzero().flatten().tolist():
        known = incumbent(task, row, start.points[row], float(start.distances[row]))
        passes[row] += improve(known, piece_at(known, known.point), task.seeds[row : row + 1])
        points[row] = known.point
    passes += OWN_PASSES * (task.rivals.any(1) & (start.distances > 0))
    return task.judge(start.points).or_else(task.judge(points), shortest).spent(passes)


def incumbent(task: Task, row: int, point: Tensor, distance: float) -> Incumbent:
    """A misclassified point [*input_shape] of one row."""
    one = slice(row, row + 1)
    return Incumbent(
        task.exact,
        task.ball.center[one],
        task.labels[one],
        task.ball.p,
        task.ball.box,
        point.clone(),
        distance,
        "start",
    )


@torch.no_grad()
def piece_at(known: Incumbent, point: Tensor) -> Piece:
    """The linear piece that holds a point [*input_shape], with estimates of its rows' norms (it proves nothing)."""
    region = Region.of(known.network, point.unsqueeze(0))
    q = dual(known.p)
    norms = hidden_norms(region, [q])[0][0].numpy(force=True)
    return Piece(known.network, tuple(region.masks), known.center, known.label, q, norms)


def free(task: Task, radius: Tensor | float = torch.inf) -> Task:
    """The same in balls of another radius, [B] or one number."""
    ball = task.ball
    return replace(task, ball=Ball(ball.center, torch.zeros_like(ball.eps) + radius, ball.p, ball.box))


@torch.no_grad()
def first_points(task: Task, settings: StartSettings) -> Found:
    """A misclassified point for every row: the nearer of the centre and the one known, and what a search finds where
    neither is misclassified. It may lie beyond the ball: from there the way leads inwards."""
    everywhere = free(task)
    found = everywhere.nothing().or_else(everywhere.judge(task.near), shortest)
    limit = covering_radius(task.ball.p, math.prod(task.network.input_shape), task.ball.box)
    radius = linear_distance(task) * 1.5
    for number in range(settings.rounds):
        radius = radius.clamp(max=limit)
        todo = (~found.success & task.rivals.any(1)).nonzero().squeeze(1)
        for block, part in free(task, radius).take(todo).blocks():
            ball, rows = part.ball.to(part.network.dtype), todo[block]
            start = random_start(ball, part.seeds, FIRST + number) if number % 2 else ball.center
            pace = adaptive(ball, settings.steps)
            reached = descend(part.network, ball, Aim(part.labels, part.rivals), start, pace, settings.steps)
            spent = reached.passes + padded(found.passes[rows], len(part)) + BACK_PASSES
            found = found.with_rows(rows, _back(part, reached.points).spent(spent))
        radius = 2 * radius
    return found


def _back(task: Task, points: Tensor) -> Found:
    """Candidates [B, *input_shape] pulled back to the border of the class, judged."""
    found = task.judge(points)
    near = pulled(task.exact, task.ball.center, task.labels, found.points, task.ball.box)
    return found.or_else(task.judge(near), shortest)


def linear_distance(task: Task) -> Tensor:
    """The distance at which the margin, linear as at the centre, reaches 0; [B], positive, finite."""
    here = InputGradient(task.exact)(task.ball.center, lambda logits: margins(logits, task.labels))
    steepness = vector_norm(here.gradient.flatten(1), dual(task.ball.p)).clamp(min=1e-9)
    return (here.values / steepness).nan_to_num(1.0).clamp(1e-6, 1e6)
