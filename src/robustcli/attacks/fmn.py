"""FMN: gradient steps on the margin inside a ball whose radius follows the border (Pintor et al., NeurIPS 2021,
arXiv 2102.12827), for l1, l2 and linf.

    r     <- min((1 - gamma) r, best distance)        where x is misclassified
             ||delta||_p + |margin| / ||g||_q         where nothing misclassified has been met yet
             (1 + gamma) r                            elsewhere
    delta <- clip(delta - a g / ||g||_2)
    delta <- P_{||.||_p <= r, box}(max(r / ||delta||_p, 1) delta)

gamma falls from .05 to .001 and a from 1 to .01 along a cosine. Two things differ from the authors' code, and both
bring points nearer: the projection is the exact one onto ball and box, and a short move is first lengthened to the
radius.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.closest import Kept, Sight, both_passes, closest, unit
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.projection import projector
from robustcli.attacks.settings_nearest import FmnSettings
from robustcli.balls import Ball

LAST = 0.01
"""The last step, as a share of the first."""

FARTHEST = 1e12
"""Stands for a radius without end."""


def fmn(task: Task, settings: FmnSettings) -> Found:
    """The nearest misclassified points that FMN finds; l1, l2, linf."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return _run(Sight.of(rows), numbers, settings), both_passes(rows.labels, settings.steps)

    return closest(task, settings.restarts, search, (1.0, 2.0, math.inf))


def _run(sight: Sight, numbers: Tensor, settings: FmnSettings) -> Tensor:
    move = torch.zeros_like(sight.center)
    kept, instead = Kept.none(move), sight.afresh()
    farthest = sight.reach.clamp(max=FARTHEST)
    radius = farthest
    first = settings.step_size or (10.0 if math.isinf(sight.p) else 1.0)
    for step in range(settings.steps):
        margin, wrong, gradient, clear = sight.look(sight.center + move)
        distance = sight.length(move)
        kept.see(move, distance, wrong)
        if step == 0:
            move = sight.random_moves(numbers, torch.minimum(2 * sight.estimate(margin, gradient), farthest))
        cosine = (1 + math.cos(math.pi * step / settings.steps)) / 2
        gamma = settings.last_gamma + (settings.gamma - settings.last_gamma) * cosine
        length = first * sight.side * (LAST + (1 - LAST) * cosine)
        outwards = torch.where(
            kept.distance.isfinite(), (1 + gamma) * radius, distance + sight.estimate(margin + clear, gradient)
        )
        radius = torch.where(wrong, torch.minimum((1 - gamma) * radius, kept.distance), outwards)
        radius = torch.minimum(radius, farthest)
        stepped = sight.clip(move - length * unit(gradient, instead, step))
        grown = stepped * (radius / sight.length(stepped).clamp(min=1e-12)).clamp(min=1)
        move = projector(Ball(sight.center, radius.squeeze(1), sight.p, sight.box))(sight.center + grown) - sight.center
    return kept.move
