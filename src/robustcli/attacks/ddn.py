"""DDN: the direction by gradient steps, the distance by a rule (Rony et al., CVPR 2019, arXiv 1811.09600), l2.

    delta <- delta - a g / ||g||_2,   a from 1 to .01 along a cosine
    r     <- (1 - gamma) r where x is misclassified, (1 + gamma) r elsewhere
    delta <- clip(r delta / ||delta||_2)

g is the gradient of f_y - log sum exp of the rivals: it points where that of the cross-entropy points, and does not
vanish at large margins. Nothing is rounded to grey levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.closest import Kept, Sight, both_passes, closest, unit
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.settings_nearest import DdnSettings
from robustcli.balls import vector_norm

LAST = 0.01
"""The last step, as a share of the first."""


def ddn(task: Task, settings: DdnSettings) -> Found:
    """The nearest misclassified points that DDN finds, l2."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return _run(Sight.of(rows), numbers, settings), both_passes(rows.labels, settings.steps)

    return closest(task, settings.restarts, search, (2.0,))


def _run(sight: Sight, numbers: Tensor, settings: DdnSettings) -> Tensor:
    radius = torch.minimum(torch.full_like(sight.reach, settings.radius * sight.side), sight.reach)
    move = sight.random_moves(numbers, radius)
    kept, instead = Kept.none(move), sight.afresh()
    for step in range(settings.steps):
        _, wrong, gradient, _ = sight.look(sight.center + move, smooth=True)
        kept.see(move, sight.length(move), wrong)
        cosine = (1 + math.cos(math.pi * step / settings.steps)) / 2
        length = sight.side * (LAST + (1 - LAST) * cosine)
        move = move - length * unit(gradient, instead, step)
        radius = torch.where(wrong, 1 - settings.gamma, 1 + settings.gamma) * radius
        radius = torch.minimum(radius, sight.reach)
        move = sight.clip(move * (radius / vector_norm(move, 2.0).unsqueeze(1).clamp(min=1e-12)))
    return kept.move
