"""What a few inequalities A delta <= b prove about the distance of x to the polytope they describe.

For any multipliers lambda >= 0 every point of the polytope satisfies the one inequality

    <A^T lambda, delta>  <=  lambda^T b                                             (weak duality)

and the distance to that half-space inside the box has a closed form (`robustcli.regions.box`). At the best lambda it is
the distance to the polytope itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from robustcli.balls import vector_norm
from robustcli.boxes import Box
from robustcli.norms import dual
from robustcli.regions.box import box_distance

Array = NDArray[np.float64]

TOLERANCE = 1e-10  # of solvers
FAR = 1e9  # a nearest point this far away is none


def halfspace_distance(row: Array, limit: float, point: Array, box: Box, p: float) -> float:
    """min ||delta||_p over <row, delta> <= limit with x + delta in the box, up to rounding; 0 when limit >= 0."""
    if limit >= 0:
        return 0.0
    rows = torch.from_numpy(row).unsqueeze(0)
    if box is None:
        norm = float(vector_norm(rows, dual(p)))
        return -limit / norm if norm > 0 else math.inf
    value = torch.tensor([-limit], dtype=torch.float64)
    return float(box_distance(rows, value, torch.from_numpy(point).unsqueeze(0), box, p))


class Rows:
    """The rows added so far, and the room of each coordinate, low <= 0 <= high, infinite without a box."""

    def __init__(self, point: Array, box: Box) -> None:
        self.point, self.box = point, box
        self.low, self.high = np.full(len(point), -math.inf), np.full(len(point), math.inf)
        if box is not None:
            low, high = (np.asarray(end, dtype=np.float64) for end in box)
            self.low, self.high = np.minimum(low - point, 0.0), np.maximum(high - point, 0.0)
        self.rows = np.empty((0, len(point)))
        self.limits = np.empty(0)

    def add(self, rows: Array, limits: Array) -> None:
        self.rows = np.concatenate([self.rows, rows])
        self.limits = np.concatenate([self.limits, limits])
