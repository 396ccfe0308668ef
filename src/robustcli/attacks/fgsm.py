"""The fast gradient sign method (Goodfellow et al. 2015), in any norm: the point of the ball where the linearised
cross-entropy is largest. For linf that is a step of eps along the gradient's signs, clipped to the box."""

from __future__ import annotations

import torch

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.losses import cross_entropy
from robustcli.attacks.runs import Rows, Runs
from robustcli.attacks.search import LOOK, Reached, oracle
from robustcli.attacks.settings import FgsmSettings


def fgsm(task: Task, settings: FgsmSettings) -> Found:
    """One step from each point to the end of its ball."""
    runs = Runs(task)

    def step(rows: Rows) -> Reached:
        center = rows.ball.center
        _, _, gradient = oracle(task.network, rows.aim, center.shape, 0.0)(center.flatten(1))
        moved = rows.ball.minimiser(gradient.view(center.shape).unsqueeze(1)).squeeze(1)
        return Reached(moved, torch.full_like(rows.run, LOOK))

    runs.work(runs.untargeted([0]), step, cross_entropy)
    return runs.found
