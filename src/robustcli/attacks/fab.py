"""FAB: project onto the decision hyperplanes of the current linear region, with a bias towards the original point
(Croce & Hein, ICML 2020, arXiv 1907.02044), for l1, l2 and linf.

At x, with the margin m = f_y - f_s and its gradient w of the rival s with the smallest |m| / ||w||_q:

    d1, d2   moves from x and from the original x0 onto { z : m + <w, z - x> = 0 }, exact inside the box
    a        min(||d1||_p / (||d1||_p + ||d2||_p), alpha_max)
    x        <- (1 - a) (x + eta d1) + a (x0 + eta d2),  clipped
    x        <- x0 + beta (x - x0)                       where that is misclassified (and kept, if the nearest so far)

The hyperplane is shifted behind the border by what rounding could hide, so that x crosses it. Runs after the first
start at x0 + r u / 2 with a random u, ||u||_p = 1, and r what the first run reached. Against one rival (FAB-T) the same
steps need one gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.attacks.closest import Kept, Seen, Sight, check_norm, closest
from robustcli.attacks.contract import Found, Task, shortest
from robustcli.attacks.settings_nearest import FabSettings
from robustcli.balls import vector_norm
from robustcli.networks.network import margin_rows
from robustcli.norms import dual
from robustcli.regions.affine import Region, decision_rows
from robustcli.regions.box import box_projection, projection

NORMS = (1.0, 2.0, math.inf)

FARTHEST = 1e30
"""Stands for a margin without end."""


def fab(task: Task, settings: FabSettings) -> Found:
    """The nearest misclassified points that FAB finds; l1, l2, linf."""
    check_norm(task, NORMS)
    found = _untargeted(task, settings, 0, 1) if settings.restarts else task.nothing()
    if settings.restarts > 1:
        ball = replace(task.ball, eps=torch.minimum(task.ball.eps, found.distances))
        found = found.or_else(_untargeted(replace(task, ball=ball), settings, 1, settings.restarts - 1), shortest)
    if settings.targets:
        found = found.or_else(_targeted(task, settings), shortest)
    return found


def _untargeted(task: Task, settings: FabSettings, first: int, runs: int) -> Found:
    """Runs against all rivals, numbered from `first`; number 0 starts from the point itself."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        moves = _run(Sight.of(rows), numbers + first, settings, _nearest_hyperplane)
        looks = settings.steps + (numbers + first > 0).long()  # a random start is looked at too
        return moves, looks * (rows.network.classes + 1)

    return closest(task, runs, search, NORMS)


def _targeted(task: Task, settings: FabSettings) -> Found:
    """One run from the point itself against each of the rivals with the largest logits there."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        logits = rows.network(rows.ball.center.to(rows.network.dtype)).masked_fill(~rows.rivals, -torch.inf)
        target = logits.argsort(dim=1, descending=True, stable=True).gather(1, numbers.unsqueeze(1))
        only = replace(rows, rivals=torch.zeros_like(rows.rivals).scatter(1, target, True))
        moves = _run(Sight.of(only), torch.zeros_like(numbers), settings, Sight.look)
        return moves, torch.full_like(numbers, 3 * settings.steps + 1)

    return closest(task, task.rivals.sum(1).clamp(max=settings.targets), search, NORMS)


Look = Callable[[Sight, Tensor], Seen]
"""What is seen at x [R, d] of the rival to go for."""


def _run(sight: Sight, numbers: Tensor, settings: FabSettings, look: Look) -> Tensor:
    """The nearest success of each row's run, as a move [R, d]."""
    move = torch.zeros_like(sight.center)
    seen = look(sight, sight.center)
    kept = Kept.none(move)
    if bool((numbers > 0).any()):
        radius = torch.minimum(sight.limit, 2 * sight.estimate(seen.margin, seen.gradient)) / 2
        move = sight.random_moves(numbers, radius)
        seen = look(sight, sight.center + move)
    for step in range(settings.steps):
        near, far = _onto(sight, move, seen.margin + seen.clear, seen.gradient)
        sizes = sight.length(near), sight.length(far)
        share = (sizes[0] / (sizes[0] + sizes[1]).clamp(min=1e-30)).clamp(max=settings.alpha_max)
        move = sight.clip((1 - share) * (move + settings.eta * near) + share * settings.eta * far)
        wrong = sight.wrong(sight.center + move)
        kept.see(move, sight.length(move), wrong)
        move = torch.where(wrong, settings.beta * move, move)
        if step + 1 < settings.steps:
            seen = look(sight, sight.center + move)
    return kept.move


def _onto(sight: Sight, move: Tensor, margin: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Moves from x and from x0 onto the hyperplane on which the linearised margin is 0, [R, d] each.

    Where it misses the box, the move to the corner nearest to it; none for a zero gradient.
    """
    rows = torch.stack([gradient, gradient], 1).to(torch.float64)
    values = torch.cat([margin, margin - (gradient * move).sum(1, keepdim=True)], 1).to(torch.float64)
    values = values.clamp(-FARTHEST, FARTHEST)
    center = sight.center.to(torch.float64)
    points = torch.stack([center + move, center], 1)
    if sight.box is None:
        found = projection(rows, values, sight.p)
        found = torch.where(found.isfinite(), found, 0.0)
    else:
        low, high = (end.to(torch.float64) for end in sight.ends)
        points = points.clamp(low, high)
        found = box_projection(rows, values, points, (low, high), sight.p)
        toward = -values.sign().unsqueeze(2) * rows.sign()
        corner = torch.where(toward > 0, high - points, torch.where(toward < 0, low - points, 0.0))
        found = torch.where(found.isfinite(), found, corner)
    near, far = found.to(gradient.dtype).unbind(1)
    return near, far


def _nearest_hyperplane(sight: Sight, x: Tensor) -> Seen:
    """`Sight.look` for the rival whose hyperplane is nearest, by the rows of the linear region of x."""
    region = Region.of(sight.network, x.view(-1, *sight.network.input_shape))
    rows = decision_rows(region, sight.labels).flatten(2)
    _, targets = margin_rows(sight.labels, sight.network.classes, x.dtype)
    logits = region.values[-1]
    margins = logits.gather(1, sight.labels.unsqueeze(1)) - logits.gather(1, targets)
    steepness = vector_norm(rows, dual(sight.p)).clamp(min=1e-12)
    away = (margins.abs() / steepness).masked_fill(~sight.rivals.gather(1, targets), torch.inf)
    chosen = away.argmin(1, keepdim=True)
    gradient = rows.gather(1, chosen.unsqueeze(2).expand(-1, 1, rows.shape[2])).squeeze(1)
    return sight.seen(logits, margins.gather(1, chosen), gradient)
