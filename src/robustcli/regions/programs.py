"""The nearest point of a polytope:  min ||delta||_p  such that  A delta <= b,  x + delta in the box.

Rows arrive a few at a time (`Program.add`), so that a polytope of thousands of rows costs only the few that matter. A
solver is trusted for nothing but its multipliers, which prove a lower bound (`robustcli.regions.halfspaces`).
"""

from __future__ import annotations

import math
from typing import Protocol

from robustcli.boxes import Box
from robustcli.regions.halfspaces import Array
from robustcli.regions.least_squares import LeastSquares
from robustcli.regions.linear_programs import LeastMaximum, LeastSum


class Program(Protocol):
    """One polytope that grows by rows."""

    def add(self, rows: Array, limits: Array) -> None:
        """Add inequalities rows delta <= limits; rows [R, d], limits [R]."""
        ...

    def solve(self, enough: float) -> tuple[Array, Array]:
        """A move [d] and multipliers of all rows added so far [R], >= 0, optimal up to tolerance.

        Args:
            enough: the search may stop when the distance is known to be at least this.
        """
        ...


def program(p: float, point: Array, box: Box) -> Program:
    """A program without rows.

    Args:
        p: exponent of the norm. For p other than 1, 2, inf the Euclidean program stands in: its multipliers prove a
            bound in every norm, its move is feasible, but neither is optimal.
        point: x, [d].
        box: input box around x, or None.
    """
    if p == 1:
        return LeastSum(point, box)
    return LeastMaximum(point, box) if math.isinf(p) else LeastSquares(point, box)
