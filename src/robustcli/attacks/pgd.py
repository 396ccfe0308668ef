"""Projected gradient descent with steps of one length: the protocols of the papers.

    000   40 steps of 2 eps / 40, one random start, cross-entropy
    001   100 steps, 10 random starts; l1: 1 % of the coordinates a step, 10 % of colour images
    003   100 steps of 0.01 from the point itself, not clipped to the box at evaluation (`--no-box`)
    Tramer & Boneh 2019: margin loss, 2.5 eps / steps

A run keeps the best point on its way; the projection is the exact one onto ball and box.
"""

from __future__ import annotations

import torch

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.losses import LOSSES
from robustcli.attacks.noise import streams
from robustcli.attacks.pace import Constant
from robustcli.attacks.runs import Rows, Runs
from robustcli.attacks.search import Reached, descend
from robustcli.attacks.settings import PlainSettings
from robustcli.attacks.wide import random_start

SHARE = {False: 0.01, True: 0.1}
"""Share of the coordinates that an l1 step moves, by whether inputs are colour images."""


def pgd(task: Task, settings: PlainSettings) -> Found:
    """Look for a misclassified point of each ball."""
    runs, first, steps = Runs(task), streams("pgd"), settings.steps
    shape = task.network.input_shape
    share = SHARE[len(shape) == 3 and shape[0] > 1] if settings.sparsity is None else settings.sparsity
    from_point = settings.start == "point"

    def search(rows: Rows) -> Reached:
        eps = rows.ball.eps.unsqueeze(1)
        length = settings.step * eps / steps if settings.step_size is None else torch.full_like(eps, settings.step_size)
        start = random_start(rows.ball, rows.seeds, first + rows.run)
        if from_point:
            start = torch.where(rows.run.view(-1, *[1] * len(shape)) == 0, rows.ball.center, start)
        return descend(task.network, rows.ball, rows.aim, start, Constant(length, torch.full_like(eps, share)), steps)

    runs.work(runs.untargeted(range(settings.restarts)), search, LOSSES[settings.loss])
    return runs.found
