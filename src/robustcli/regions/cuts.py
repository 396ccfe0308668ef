"""The nearest point of a linear piece, and of its part beyond a decision hyperplane, by cutting planes.

A piece has an inequality for every hidden unit; at its nearest point only a few are tight. The program starts with
none but the decision's, and the rows that its answer violates most are added until it violates none. Fewer rows make
the distance smaller, so every round's multipliers prove a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustcli.balls import vector_norm
from robustcli.boxes import Box, converted, longest_side
from robustcli.norms import dual
from robustcli.regions.halfspaces import Array, halfspace_distance
from robustcli.regions.pieces import Piece
from robustcli.regions.programs import program
from robustcli.regions.rounding import gamma

ROUNDS = 60
CUTS = 12  # rows added in one round
VIOLATION = 1e-9  # in units of the distance


@dataclass(frozen=True)
class Nearest:
    """An answer.

    Args:
        lower: no point asked for is nearer (inf: there is none); safe against rounding.
        move: from x to the nearest point up to tolerance, [d]; None when the search ended early.
        tight: units whose inequality holds the point back, the strongest first.
        used: units whose rows were added.
    """

    lower: float
    move: Array | None
    tight: list[int]
    used: list[int]


def nearest(
    piece: Piece,
    p: float,
    box: Box,
    target: int | None = None,
    enough: float = math.inf,
    start: Sequence[int] = (),
    behind: float = 0.0,
) -> Nearest:
    """min ||z - x||_p over the points z of the piece (and of the box), with f_y(z) <= f_s(z) for a target.

    Args:
        target: index of the class s among those other than y, ascending; None asks for the piece alone.
        enough: the search ends when the distance is known to be at least this.
        start: units whose rows to begin with.
        behind: asks for f_y(z) <= f_s(z) - behind, in logits.
    """
    if piece.impossible:
        return Nearest(math.inf, None, [], [])
    cutting = _Cutting(piece, p, box, enough)
    if target is not None:
        cutting.decide(target, behind)
    cutting.cut(list(start) or cutting.violated(np.zeros(piece.point.numel())))
    return cutting.run()


class _Cutting:
    """The rows in use: `units`, preceded by the decision's where there is one."""

    def __init__(self, piece: Piece, p: float, box: Box, enough: float) -> None:
        self.piece, self.p, self.box, self.enough = piece, p, converted(box, "cpu"), enough
        self.point: Array = piece.point.flatten().numpy(force=True)
        self.program = program(p, self.point, self.box)
        d = len(self.point)
        self.units: list[int] = []
        self.rows, self.limits, self.scales = np.empty((0, d)), np.empty(0), np.empty(0)
        self.value_errors, self.row_errors = np.empty(0), np.empty(0)
        self.sizes = np.where(piece.norms > 0, piece.norms, 1.0)
        self.decision = 0

    def decide(self, target: int, behind: float) -> None:
        """Add <V_y - V_s, delta> <= -(f_y - f_s)(x) - behind."""
        piece, one = self.piece, slice(target, target + 1)
        self._add(
            piece.decisions[one], -piece.margins[one] - behind, piece.margin_errors[one], piece.decision_errors[one]
        )
        self.decision = 1

    def cut(self, units: list[int]) -> None:
        """Add -s_j <V_j, delta> <= s_j v_j for new units j."""
        piece = self.piece
        units = [unit for unit in units if unit not in self.units]
        if not units:
            return
        signs = piece.signs[units]
        self._add(
            -signs[:, None] * piece.rows(units),
            signs * piece.values[units],
            piece.value_errors[units],
            piece.row_errors[units],
        )
        self.units += units

    def _add(self, rows: Array, limits: Array, value_errors: Array, row_errors: Array) -> None:
        sizes = np.abs(rows).max(axis=1, initial=0.0)
        scales = 1 / np.where(sizes > 0, sizes, 1.0)
        self.program.add(rows * scales[:, None], limits * scales)
        self.rows, self.limits = np.concatenate([self.rows, rows]), np.concatenate([self.limits, limits])
        self.scales = np.concatenate([self.scales, scales])
        self.value_errors = np.concatenate([self.value_errors, value_errors])
        self.row_errors = np.concatenate([self.row_errors, row_errors])

    def run(self) -> Nearest:
        """Solve and cut in turn."""
        lower, move, multipliers = 0.0, np.zeros_like(self.point), np.empty(0)
        for _ in range(ROUNDS):
            if len(self.rows):
                move, multipliers = self.program.solve(self.enough)
                multipliers = multipliers * self.scales
                lower = max(lower, self.proved(multipliers))
            if lower >= self.enough:
                return Nearest(lower, None, [], self.units)
            violated = self.violated(move)
            if not violated:
                return Nearest(lower, move, self._tight(multipliers), self.units)
            fresh = [unit for unit in violated if unit not in self.units]
            if not fresh:
                break
            self.cut(fresh)
        return Nearest(lower, None, [], self.units)

    def violated(self, move: Array) -> list[int]:
        """The units whose inequality x + move violates most, the worst first."""
        values, _ = self.piece.at(move)
        depth = -self.piece.signs * values / self.sizes
        worst = np.argsort(-depth)[: CUTS + len(self.units)]
        return [int(unit) for unit in worst if depth[unit] > VIOLATION][:CUTS]

    def _tight(self, multipliers: Array) -> list[int]:
        forces = multipliers[self.decision :] * self.sizes[self.units] if len(multipliers) else multipliers
        return [self.units[place] for place in np.argsort(-forces) if forces[place] > 0]

    def proved(self, multipliers: Array) -> float:
        """The distance to the half-space that the multipliers combine the rows to, rounded downwards."""
        if not multipliers.any():
            return 0.0
        relative, sums = self.piece.relative, gamma(len(self.rows) + 8, torch.float64)
        w, limit = multipliers @ self.rows, float(multipliers @ self.limits)
        slack = float(multipliers @ (self.value_errors + sums * np.abs(self.limits)))
        row_slack = float(multipliers @ self.row_errors) + sums * float((multipliers @ np.abs(self.rows)).sum())
        if self.box is not None:
            slack += row_slack * longest_side(self.box)
            below = (limit + slack) * (1 - relative)
            return (1 - relative) * halfspace_distance(w, below, self.point, self.box, self.p)
        below = -(limit + slack) * (1 - relative)
        longest = float(vector_norm(torch.from_numpy(w), dual(self.p))) * (1 + relative) + row_slack
        if not below > 0 or math.isnan(longest):
            return 0.0
        return below / longest if longest > 0 else math.inf
