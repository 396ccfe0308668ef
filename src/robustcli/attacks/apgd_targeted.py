"""APGD against one class after the other: the runs that decide most in AutoAttack (Croce & Hein, arXiv 2003.01690)."""

from __future__ import annotations

from robustcli.attacks.apgd import inside
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.losses import Loss
from robustcli.attacks.noise import streams
from robustcli.attacks.runs import Runs
from robustcli.attacks.settings import TargetedSettings


def apgd_targeted(task: Task, settings: TargetedSettings, loss: Loss) -> Found:
    """Look for a misclassified point of each ball; targets in order of closeness at the best point so far."""
    runs, first = Runs(task), streams(f"apgd-targeted-{loss.__name__}")
    search = inside(task, settings.steps, first)
    for number in range(settings.restarts):
        runs.work(runs.targeted(1 + number * task.network.classes, settings.targets), search, loss)
    return runs.found
