"""APGD whose random runs start far outside the ball: from many times the radius inwards (see `wide`).

first run     from the point itself, against all other classes
then          one run per target t on f_y - f_t, in order of closeness  } from random points, coming in
then          the other restarts, against all other classes             } from far outside;
              for linf every second one from a random point of the ball
"""

from __future__ import annotations

import math

import torch

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.losses import LOSSES
from robustcli.attacks.pace import pace
from robustcli.attacks.runs import Rows, Runs
from robustcli.attacks.search import Reached, descend
from robustcli.attacks.settings import WideSettings
from robustcli.attacks.wide import inwards, phases, random_start, scaled


def apgd_wide(task: Task, settings: WideSettings) -> Found:
    """Look for a misclassified point of each ball."""
    runs, loss, plan = Runs(task), LOSSES[settings.loss], phases(settings)

    def wide(rows: Rows) -> Reached:
        start = random_start(scaled(rows.ball, plan[0].multiple), rows.seeds, rows.run)
        return inwards(task.network, rows.ball, rows.aim, start, plan, lambda ball, steps: pace(ball, settings, steps))

    def near(rows: Rows) -> Reached:
        centred = rows.run.view(-1, *[1] * (rows.ball.center.dim() - 1)) == 0
        start = torch.where(centred, rows.ball.center, random_start(rows.ball, rows.seeds, rows.run))
        steps = settings.steps
        return descend(task.network, rows.ball, rows.aim, start, pace(rows.ball, settings, steps), steps)

    # For linf, near and far starts find different witnesses; for l1 and l2, near ones find next to none.
    numbers = range(1, settings.restarts)
    close = [number for number in numbers if number % 2 and math.isinf(task.ball.p)]
    # Against one rival only, a targeted run is the same as an untargeted one.
    targets = 0 if task.network.classes == 2 and settings.loss == "margin" else settings.targets
    runs.work(runs.untargeted([0]), near, loss)
    runs.work(runs.targeted(settings.restarts, targets), wide)
    runs.work(runs.untargeted([number for number in numbers if number not in close]), wide, loss)
    runs.work(runs.untargeted(close), near, loss)
    return runs.found
