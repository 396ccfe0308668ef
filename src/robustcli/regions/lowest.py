"""The lowest margin on a linear piece inside ball and box: a linear program for l1 and linf, by cutting planes.

    min (f_y - f_t)(x) + <V_y - V_t, delta>   such that   x + delta in the piece and in the box,   ||delta||_p <= eps

Nothing is proved: answers are places where an attack looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustcli.boxes import Box, converted
from robustcli.regions.halfspaces import Array
from robustcli.regions.linear_programs import LeastMaximum, LeastSum
from robustcli.regions.pieces import Piece

ROUNDS = 40
CUTS = 32  # rows added in one round
VIOLATION = 1e-9  # in units of the distance


@dataclass(frozen=True)
class Lowest:
    """An answer.

    Args:
        move: from x, [d].
        tight: units whose inequality holds the point back, the strongest first.
    """

    move: Array
    tight: list[int]


def lowest(piece: Piece, p: float, box: Box, target: int, eps: float) -> Lowest | None:
    """Where the margin against a class is lowest; None where the piece misses the ball, or the search ends early.

    Args:
        p: 1 or inf.
        target: index of the class t among those other than y, ascending.
        eps: radius, finite.
    """
    point: Array = piece.point.flatten().numpy(force=True)
    program = PROGRAMS[p](piece.decisions[target], point, converted(box, "cpu"), eps)
    sizes = np.where(piece.norms > 0, piece.norms, 1.0)
    units: list[int] = []
    for _ in range(ROUNDS):
        answer = program.lowest()
        if answer is None:
            return None
        move, forces = answer
        depth = -piece.signs * piece.at(move)[0] / sizes
        depth[units] = -math.inf
        fresh = [int(unit) for unit in np.argsort(-depth)[:CUTS] if depth[unit] > VIOLATION]
        if not fresh:
            return Lowest(move, [units[place] for place in np.argsort(-forces) if forces[place] > 0])
        signs, scales = piece.signs[fresh], 1 / sizes[fresh]
        program.add(-(signs * scales)[:, None] * piece.rows(fresh), signs * scales * piece.values[fresh])
        units += fresh
    return None


class LowestSum(LeastSum):
    """l1: moves up and down are columns of their own, and their sum is a row."""

    def __init__(self, cost: Array, point: Array, box: Box, eps: float) -> None:
        super().__init__(point, box)
        columns = np.arange(2 * len(cost), dtype=np.int32)
        self.lp.changeColsCost(len(columns), columns, np.concatenate([cost, -cost]))
        self.lp.addRow(-math.inf, eps, len(columns), columns, np.ones(len(columns)))

    def lowest(self) -> tuple[Array, Array] | None:
        """The move [d], and the multipliers of the rows added [R], >= 0; None where there is no such point."""
        found = _optimum(self.lp)
        if found is None:
            return None
        both, forces = found
        up, down = both[: len(self.low)], both[len(self.low) :]
        return np.clip(up - down, self.low, self.high), forces[1:]


class LowestInBox(LeastMaximum):
    """linf: ball and box are ends of the columns; the one for the violation is held at 0."""

    def __init__(self, cost: Array, point: Array, box: Box, eps: float) -> None:
        super().__init__(point, box)
        self.ends = np.maximum(self.low, -eps), np.minimum(self.high, eps)
        columns = np.arange(len(cost) + 1, dtype=np.int32)
        self.lp.changeColsCost(len(columns), columns, np.append(cost, 0.0))
        self.lp.changeColsBounds(len(columns), columns, *(np.append(end, 0.0) for end in self.ends))

    def lowest(self) -> tuple[Array, Array] | None:
        """As in `LowestSum`."""
        found = _optimum(self.lp)
        return None if found is None else (np.clip(found[0][:-1], *self.ends), found[1])


PROGRAMS: dict[float, Callable[[Array, Array, Box, float], LowestSum | LowestInBox]] = {
    1.0: LowestSum,
    math.inf: LowestInBox,
}


def _optimum(solver: Any) -> tuple[Array, Array] | None:
    """Columns and multipliers of an optimal answer."""
    import highspy

    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    solution = solver.getSolution()
    return np.array(solution.col_value), np.maximum(-np.array(solution.row_dual), 0.0)
