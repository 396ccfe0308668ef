"""Distances from the linear region and its neighbours: the best-first search of 000 appendix A.2, made sound.

Every straight path from x to a misclassified point at distance r crosses pieces one hyperplane at a time, each within
r. So pieces are taken in the order of a lower bound (key) on the distance at which they can be entered:

    key of a neighbour across hyperplane i of piece s = max(key of s, nearest point of s, distance to hyperplane i),

the last only when x lies on the side of s (else s can be left through i at any distance). Within a piece the nearest
tie is found exactly (`robustcli.regions.cuts`). When the next key is no smaller than the nearest tie, the tie is the
nearest of all; when the budget of pieces runs out first, the next key still bounds the distance.

Pieces without a point nearer than the nearest known tie are skipped and cost no budget: no shortest path enters them.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robustcli.balls import vector_norm
from robustcli.boxes import Box, converted, longest_side
from robustcli.norms import dual
from robustcli.regions.box import box_distance
from robustcli.regions.cuts import nearest
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.pieces import Piece

Array = NDArray[np.float64]

REFINED = 16  # keys brought into the box at once
SKIPPED = 20  # pieces that may turn out to be out of reach, for each one of the budget


@dataclass(frozen=True)
class Reached:
    """An answer.

    Args:
        lower: certified distance to the nearest misclassified point (or tie).
        regions: pieces explored, the first included.
        complete: the search ended by itself, not by its budget.
    """

    lower: float
    regions: int
    complete: bool


def search(
    first: Piece,
    doubtful: NDArray[np.bool_],
    p: float,
    box: Box,
    regions: int | None,
    known: Incumbent,
) -> Reached:
    """The best-first search from one correctly classified point.

    Args:
        first: the piece of x.
        doubtful: units whose sign at x is in doubt, [N] bool: x may lie in any combination of them.
        p: exponent of the norm.
        box: input box, or None.
        regions: how many further pieces to explore; None for all that matter.
        known: the nearest misclassified point known; improved in place by what the search finds.
    """
    return _Search(first, doubtful, p, box, known).run(regions)


class _Search:
    """`ties` bounds the distance to every tie in the pieces explored from below; entries of `heap` are
    (key, number, piece, unit, whether the key knows the box)."""

    def __init__(
        self,
        first: Piece,
        doubtful: NDArray[np.bool_],
        p: float,
        box: Box,
        known: Incumbent,
    ) -> None:
        self.doubtful, self.p, self.box, self.known = doubtful, p, converted(box, "cpu"), known
        self.ties = math.inf
        self.heap: list[tuple[float, int, Piece, int, bool]] = []
        self.seen = {first.flips}
        self.count = 0
        self._explore(first, 0.0, [])

    @property
    def enough(self) -> float:
        """Nothing farther than this matters."""
        return min(self.ties, self.known.distance)

    def run(self, regions: int | None) -> Reached:
        """Explore until the nearest tie is certain, or the budget is spent."""
        budget = math.inf if regions is None else regions
        explored, tried = 0, 0
        while self._settle_top() < self.enough:
            if explored >= budget or tried >= SKIPPED * budget:
                return Reached(min(self.heap[0][0], self.ties), explored + 1, False)
            key, _, piece, unit, _ = heapq.heappop(self.heap)
            if piece.flips ^ {unit} in self.seen:
                continue
            self.seen.add(piece.flips ^ {unit})
            tried += 1
            other = piece.flipped(unit)
            inside = nearest(other, self.p, self.box, enough=self.enough, start=[unit])
            if self.doubtful[unit] or inside.lower < self.enough:
                explored += 1
                self._explore(other, max(key, 0.0 if self.doubtful[unit] else inside.lower), inside.used)
        return Reached(min(self._settle_top(), self.ties), explored + 1, True)

    def _explore(self, piece: Piece, key: float, used: list[int]) -> None:
        """The nearest tie of a piece, and the keys of its neighbours."""
        alone = self._decisions(piece)
        for target in np.argsort(alone):
            if alone[target] >= self.enough:
                self.ties = min(self.ties, float(alone[target]))
                break
            tie = nearest(piece, self.p, self.box, int(target), self.enough, used)
            self.ties = min(self.ties, max(tie.lower, float(alone[target])))
            if tie.move is not None and not self.known.offer(tie.move, "neighbours"):
                self.known.offer_behind(piece, int(target), "neighbours", tie.used)
        ahead = np.where(self.doubtful, 0.0, piece.ahead)
        for unit in (ahead < self.enough).nonzero()[0].tolist():
            if piece.flips ^ {unit} not in self.seen:
                self.count += 1
                known = self.box is None or ahead[unit] == 0
                heapq.heappush(self.heap, (max(key, float(ahead[unit])), self.count, piece, unit, known))

    def _settle_top(self) -> float:
        """Bring keys into the box until the smallest one is; returns it (inf when nothing is left)."""
        while self.heap and not self.heap[0][4] and self.heap[0][0] < self.enough:
            piece = self.heap[0][2]
            entries: list[tuple[float, int, Piece, int, bool]] = []
            while self.heap and len(entries) < REFINED and self.heap[0][2] is piece and not self.heap[0][4]:
                entries.append(heapq.heappop(self.heap))
            units = [entry[3] for entry in entries]
            turned = torch.from_numpy(piece.signs[units, None] * piece.rows(units))
            values = piece.signs[units] * piece.values[units]
            farther = self._boxed(piece, turned, values, piece.value_errors[units], piece.row_errors[units]).tolist()
            for (key, number, _, unit, _), distance in zip(entries, farther, strict=True):
                heapq.heappush(self.heap, (max(key, distance), number, piece, unit, True))
        return self.heap[0][0] if self.heap else math.inf

    def _decisions(self, piece: Piece) -> Array:
        """Certified distances to the decision hyperplanes in front of x, 0 for those behind it; [K-1]."""
        rows, errors = torch.from_numpy(piece.decisions), piece.decision_errors
        if self.box is not None:
            return self._boxed(piece, rows, piece.margins, piece.margin_errors, errors)
        ahead = np.maximum(piece.margins - piece.margin_errors, 0.0) * (1 - piece.relative)
        longest = vector_norm(rows, dual(self.p)).numpy() * (1 + piece.relative) + errors
        constant = longest == 0
        return np.where(constant & (ahead > 0), math.inf, ahead / np.where(constant, 1.0, longest))

    def _boxed(self, piece: Piece, rows: torch.Tensor, values: Array, value_errors: Array, row_errors: Array) -> Array:
        """Distances inside the box, rounded down, to where <row, delta> = -value; 0 for values <= 0."""
        assert self.box is not None
        slack = value_errors + row_errors * longest_side(self.box)
        ahead = torch.from_numpy(np.maximum(values - slack, 0.0) * (1 - piece.relative))
        x = piece.point.flatten().cpu().unsqueeze(0)
        found: Array = (box_distance(rows, ahead, x, self.box, self.p) * (1 - piece.relative)).numpy()
        return found
