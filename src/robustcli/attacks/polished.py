"""The exact polish as an attack: the nearest misclassified point of the linear piece of the point known, by a quadratic
(l2) or linear program (l1, linf), then of the pieces beyond the faces that hold it back (`regions.polish`)."""

from __future__ import annotations

from torch import Tensor

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.improving import improved
from robustcli.attacks.settings_regions import PolishSettings
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.pieces import Piece
from robustcli.regions.polish import polish


def polished(task: Task, settings: PolishSettings) -> Found:
    """Bring the misclassified points known nearer (goal: nearest; l1, l2, linf).

    Args:
        task: `near` is where it starts, inside the ball or not.
        settings: pieces to look at.
    """

    def improve(known: Incumbent, piece: Piece, seed: Tensor) -> int:
        polish(piece, known, settings.pieces)
        return settings.pieces * task.network.classes

    return improved(task, settings.start, improve)
