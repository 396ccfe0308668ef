"""APGD (Croce & Hein, arXiv 2003.01690) against all classes; for l1, l1-APGD from 3 eps inwards (arXiv 2103.01208).

One function for all losses: cross-entropy and DLR as in AutoAttack, and the plain margin.
"""

from __future__ import annotations

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.losses import Loss
from robustcli.attacks.noise import streams
from robustcli.attacks.pace import adaptive
from robustcli.attacks.runs import Rows, Runs
from robustcli.attacks.search import Reached
from robustcli.attacks.settings import ApgdSettings
from robustcli.attacks.wide import Phase, inwards, large_eps, random_start, scaled


def apgd(task: Task, settings: ApgdSettings, loss: Loss) -> Found:
    """Look for a misclassified point of each ball."""
    runs, first = Runs(task), streams(f"apgd-{loss.__name__}")
    search = inside(task, settings.steps, first)
    runs.work(runs.untargeted(range(settings.restarts)), search, loss)
    return runs.found


class inside:
    """A run of APGD from a random point near the surface. (From the point itself, cross-entropy and DLR miss points in
    linf that every random start finds.)

    Args:
        task: what is attacked.
        steps: of each run.
        first: stream of random numbers of run 0.
    """

    def __init__(self, task: Task, steps: int, first: int) -> None:
        self.task, self.first = task, first
        self.plan = large_eps(steps) if task.ball.p == 1 else [Phase(1.0, steps)]

    def __call__(self, rows: Rows) -> Reached:
        wide = scaled(rows.ball, self.plan[0].multiple)
        start = random_start(wide, rows.seeds, self.first + rows.run)
        return inwards(self.task.network, rows.ball, rows.aim, start, self.plan, adaptive)
