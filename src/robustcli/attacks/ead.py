"""EAD: elastic-net attack (Chen et al., AAAI 2018, arXiv 1709.04114), for l1, and for l2.

    min over x in the box of  c max(f_y - max f_t, 0) + ||x - x0||_2^2 + beta ||x - x0||_1

by FISTA with steps falling like sqrt(1 - k / steps), for several c as in Carlini & Wagner's attack. A search goes on
where the last one ended, as in the program torchattacks: starting anew, as in the paper, ends a quarter farther away.
What counts as nearest is the norm of the task. Lengths count in units of the longest side of the box.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.attacks.carlini_wagner import Penalties, Progress
from robustcli.attacks.closest import Kept, Sight, closest
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.settings_nearest import EadSettings


def ead(task: Task, settings: EadSettings) -> Found:
    """The nearest misclassified points that EAD finds; l1, l2."""

    def search(rows: Task, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return _run(Sight.of(rows), settings)

    return closest(task, 1, search, (1.0, 2.0))


def _run(sight: Sight, settings: EadSettings) -> tuple[Tensor, Tensor]:
    kept = Kept.none(sight.center)
    weights = Penalties(sight.reach, settings.constant, settings.searches)
    spent = torch.zeros_like(sight.labels)
    side = sight.side
    move = ahead = torch.zeros_like(sight.center)
    for number in range(settings.searches):
        weight = weights.begin(number)
        succeeded = torch.zeros_like(weight, dtype=torch.bool)
        progress = Progress(weight, settings.steps, settings.abort_early)
        for step in range(settings.steps):
            seen = sight.look(sight.center + ahead)
            unit = ahead / side
            loss = (unit * unit).sum(1, keepdim=True) + weight * seen.margin.clamp(min=0)
            if progress.over(step, loss):
                break
            rate = settings.rate * (1 - step / settings.steps) ** 0.5
            # In units of the side: the gradient of the margin grows by it.
            pull = 2 * unit + weight * seen.gradient * side * (seen.margin > 0)
            stepped = unit - rate * pull
            last = move
            move = sight.clip(side * stepped.sign() * (stepped.abs() - settings.sparsity).clamp(min=0))
            ahead = move + step / (step + 3) * (move - last)
            hit = sight.wrong(sight.center + move) & progress.live
            kept.see(move, sight.length(move), hit)
            succeeded = succeeded | hit
            spent = spent + 3 * progress.live.squeeze(1)
        weights.end(succeeded)
    return kept.move, spent
