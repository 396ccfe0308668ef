"""The nearest point of a polytope in l2: Newton's method on the dual."""

from __future__ import annotations

import math

import numpy as np

from robustcli.boxes import Box
from robustcli.regions.halfspaces import FAR, TOLERANCE, Array, Rows

NEWTON_STEPS = 60
DAMPING = (1e-12, 1e-8, 1e-5, 1e-3, 1e-1, 1e1)  # the first keeps the matrix regular when rows depend on each other
LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.01)
SMALLEST = np.finfo(np.float64).tiny


class LeastSquares(Rows):
    """p = 2, by Newton's method on the dual, which has one variable a row.

    With w = A^T lambda the best move is delta = clip(-w, low, high), and the dual function

        D(lambda) = |delta|^2 / 2 + <w, delta> - lambda^T b

    is concave and piecewise quadratic with gradient A delta - b and second derivative -A_I A_I^T, I the coordinates
    that are not at their ends. Every step maximises the quadratic model over lambda >= 0 and is shortened until D
    rises; where even short steps fail (at kinks) the model is damped.
    """

    def __init__(self, point: Array, box: Box) -> None:
        super().__init__(point, box)
        self.multipliers, self.lengths = np.empty(0), np.empty(0)

    def add(self, rows: Array, limits: Array) -> None:
        lengths = np.linalg.norm(rows, axis=1)
        lengths = np.where(lengths > 0, lengths, 1.0)
        super().add(rows / lengths[:, None], limits / lengths)
        self.lengths = np.concatenate([self.lengths, lengths])
        self.multipliers = np.concatenate([self.multipliers, np.zeros(len(rows))])

    def solve(self, enough: float) -> tuple[Array, Array]:
        stop = min(enough, FAR) ** 2 / 2
        value, move, slope = self._dual(self.multipliers)
        for _ in range(NEWTON_STEPS):
            rising = np.where(self.multipliers > 0, np.abs(slope), slope)
            if value >= stop or not rising.max(initial=0.0) > TOLERANCE / 10:
                break
            if not self._step(value, slope):
                break
            value, move, slope = self._dual(self.multipliers)
        return move, self.multipliers / self.lengths

    def _dual(self, multipliers: Array) -> tuple[float, Array, Array]:
        """D, its minimiser delta and its gradient."""
        w = multipliers @ self.rows
        move = np.clip(-w, self.low, self.high)
        slope = self.rows @ move - self.limits
        return float(move @ move / 2 + multipliers @ slope), move, slope

    def _step(self, value: float, slope: Array) -> bool:
        """Replace the multipliers by better ones; False when there are none."""
        aimed = -(self.multipliers @ self.rows)
        inside = self.rows[:, (aimed >= self.low) & (aimed <= self.high)]
        curvature = inside @ inside.T
        for damping in DAMPING:
            matrix = curvature + damping * np.eye(len(slope))
            best = _nonnegative(matrix, slope + matrix @ self.multipliers, self.multipliers)
            step = best - self.multipliers
            for length in LENGTHS:
                tried = self.multipliers + length * step
                if self._dual(tried)[0] > value + 1e-4 * length * float(slope @ step):
                    self.multipliers = np.maximum(tried, 0.0)
                    return True
        return False


def _nonnegative(matrix: Array, target: Array, start: Array) -> Array:
    """max <target, x> - x^T matrix x / 2 over x >= 0, matrix positive definite (Lawson and Hanson; Bro and de Jong)."""
    x = start.copy()
    chosen = x > 0
    for _ in range(3 * len(x) + 10):
        while chosen.any():
            best = np.zeros_like(x)
            best[chosen] = np.linalg.solve(matrix[np.ix_(chosen, chosen)], target[chosen])
            falling = chosen & (best <= 0)
            if not falling.any():
                x = best
                break
            share = (x[falling] / np.maximum(x[falling] - best[falling], SMALLEST)).min()  # 0 / 0: leave it
            x = np.where(chosen, x + share * (best - x), 0.0)
            chosen &= x > 1e-14 * max(1.0, float(x.max()))
            x[~chosen] = 0.0
        slope = np.where(chosen, -math.inf, target - matrix @ x)
        place = int(slope.argmax())
        if not slope[place] > TOLERANCE / 100:
            break
        chosen[place] = True
    return x
