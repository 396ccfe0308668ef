"""The nearest point of a polytope in l1 and linf: linear programs, solved by HiGHS and warm-started as rows arrive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from robustcli.boxes import Box
from robustcli.regions.halfspaces import FAR, TOLERANCE, Array, Rows, halfspace_distance

RADII = 40  # radii that the linf program tries in one call

HARDEST = 1e19


class LeastSum(Rows):
    """p = 1 as a linear program: delta = up - down, minimise sum up + sum down."""

    def __init__(self, point: Array, box: Box) -> None:
        super().__init__(point, box)
        ends = np.concatenate([self.high, -self.low])
        self.lp = _lp(np.ones_like(ends), np.zeros_like(ends), ends)

    def add(self, rows: Array, limits: Array) -> None:
        super().add(rows, limits)
        _append(self.lp, np.hstack([rows, -rows]), limits)

    def solve(self, enough: float) -> tuple[Array, Array]:
        import highspy

        self.lp.run()
        if self.lp.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            return np.zeros(len(self.low)), _ray(self.lp, len(self.rows))
        both, multipliers = _answer(self.lp)
        up, down = both[: len(self.low)], both[len(self.low) :]
        return np.clip(up - down, self.low, self.high), multipliers


class LeastMaximum(Rows):
    """p = inf by a search over the radius t (Dinkelbach's method), each step a linear program with bounds only:

        s(t) = min over |delta| <= t and the room of max_j <A_j, delta> - b_j.

    While s(t) > 0 its multipliers give a half-space farther away than t: that distance is the next t, still a lower
    bound. It ends at the first t with s(t) <= 0, after a handful of warm-started programs.
    """

    def __init__(self, point: Array, box: Box) -> None:
        super().__init__(point, box)
        self.radius, self.multipliers = 0.0, np.empty(0)
        last = np.append(np.zeros(len(point)), 1.0)
        self.lp = _lp(last, np.zeros_like(last), np.where(last > 0, math.inf, 0.0))

    def add(self, rows: Array, limits: Array) -> None:
        lengths = np.abs(rows).sum(1)
        lengths = np.where(lengths > 0, lengths, 1.0)
        super().add(rows, limits)
        self.multipliers = np.concatenate([self.multipliers, np.zeros(len(rows))])
        _append(self.lp, np.hstack([rows, -lengths[:, None]]), limits)

    def solve(self, enough: float) -> tuple[Array, Array]:
        d = len(self.low)
        move = np.zeros(d)
        for _ in range(RADII):
            low, high = np.maximum(self.low, -self.radius), np.minimum(self.high, self.radius)
            self.lp.changeColsBounds(d, np.arange(d, dtype=np.int32), low, high)
            self.lp.run()
            found, multipliers = _answer(self.lp)
            move = np.clip(found[:d], low, high)
            if not found[d] > TOLERANCE / 10:
                break
            w, limit = multipliers @ self.rows, float(multipliers @ self.limits)
            farther = halfspace_distance(w, limit, self.point, self.box, math.inf)
            if not farther > self.radius:
                break
            self.radius, self.multipliers = min(farther, FAR), multipliers
            if farther >= min(enough, FAR):
                break
        return move, self.multipliers


def _lp(cost: Array, low: Array, high: Array) -> Any:
    """A HiGHS model with bounds and no rows."""
    import highspy

    solver = highspy.Highs()
    options: dict[str, bool | int | float | str] = {
        "output_flag": False,
        "threads": 1,
        "presolve": "off",
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    }
    for option, value in options.items():
        solver.setOptionValue(option, value)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(cost), 0
    model.col_cost_, model.col_lower_, model.col_upper_ = cost, low, high
    solver.passModel(model)
    return solver


def _append(solver: Any, rows: Array, limits: Array) -> None:
    count, width = rows.shape
    starts = np.arange(count, dtype=np.int32) * width
    index = np.tile(np.arange(width, dtype=np.int32), count)
    # HiGHS refuses limits beyond 1e20; a looser one only costs it a tight answer, proofs take the true one.
    limits = np.maximum(limits, -HARDEST)
    solver.addRows(count, np.full(count, -math.inf), limits, count * width, starts, index, rows.ravel())


def _answer(solver: Any) -> tuple[Array, Array]:
    """Values of the columns and multipliers of the rows (zeros when the solver has none)."""
    solution = solver.getSolution()
    values, multipliers = np.array(solution.col_value), -np.array(solution.row_dual)
    return values, np.maximum(multipliers, 0.0)


def _ray(solver: Any, count: int) -> Array:
    """Multipliers that prove an infeasible program infeasible (Farkas); zeros when the solver has none."""
    _, known, ray = solver.getDualRay()
    if not known:
        return np.zeros(count)
    values = np.asarray(ray, dtype=np.float64)
    return np.maximum(values if values.sum() > 0 else -values, 0.0)
