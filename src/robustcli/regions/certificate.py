"""Certified distances to the nearest misclassified point from the linear region alone (000 Theorem 3.1), with and
without the input box (000 appendix A.1), rounded downwards.

    lower = min(d_B, d_D),   exact when d_D <= d_B: then the nearest point of the decision hyperplane is in the region.

Ties f_s = f_y count as misclassified. In the box the same holds with distances inside the box, because the segment from
x to any point of the box stays in the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.boxes import Ends, longest_side
from robustcli.norms import dual
from robustcli.regions.affine import Region, decision_rows, unit_rows
from robustcli.regions.box import box_distance
from robustcli.regions.chosen_norms import decision_norms
from robustcli.regions.distances import least
from robustcli.regions.rounding import Errors, gamma, region_errors
from robustcli.regions.row_norms import MEMORY, hidden_norms

FIRST_UNITS = 16  # hyperplanes looked at in the first round of the lazy minimum; doubled every round
MOST_UNITS = 128


@dataclass(frozen=True)
class RegionBound:
    """Certified distances of B correctly classified points, [B] each.

    Args:
        lower: no misclassified point (or tie) is nearer.
        exact: some tie is not farther than `decision_upper`, and `lower` is its distance up to rounding.
        boundary: lower bound on the distance to the region's boundary.
        decision: lower bound on the distance to the decision hyperplanes of the region.
        decision_upper: upper bound on the latter.
    """

    lower: Tensor
    exact: Tensor
    boundary: Tensor
    decision: Tensor
    decision_upper: Tensor

    @classmethod
    def of(cls, boundary: Tensor, decision: Tensor, decision_upper: Tensor) -> RegionBound:
        """Theorem 3.1."""
        lower = torch.minimum(boundary, decision)
        return cls(lower, (decision_upper <= boundary) & decision_upper.isfinite(), boundary, decision, decision_upper)


@dataclass(frozen=True)
class Certificate:
    """Everything the bounds of B correctly classified points rest on, in float64.

    Args:
        region: the regions.
        points: [B, *input_shape].
        labels: [B].
        errors: rounding errors.
        memory: bytes for one piece of the computations; one image, or one hyperplane, is the smallest piece.
    """

    region: Region
    points: Tensor
    labels: Tensor
    errors: Errors
    memory: int = MEMORY

    @classmethod
    def of(cls, region: Region, points: Tensor, labels: Tensor, memory: int = MEMORY) -> Certificate:
        """For the regions `Region.of(network, points)` of a float64 network."""
        return cls(region, points, labels, region_errors(region, points, labels), memory)

    @property
    def relative(self) -> float:
        """Relative error of sums over the input coordinates."""
        return gamma(16 * self.points[0].numel() + 64, self.points.dtype)

    @torch.no_grad()
    def unboxed(self, ps: Sequence[float]) -> list[tuple[RegionBound, Tensor]]:
        """The bound without box in several norms, each with the certified distances of all units [B, N]."""
        qs = [dual(p) for p in ps]
        units = hidden_norms(self.region, qs, memory=self.memory)
        decisions = decision_norms(self.region, self.labels, qs, memory=self.memory)
        values, margins, errors = self.region.hidden().abs(), self.region.margins(self.labels), self.errors
        found = []
        for unit, decision in zip(units, decisions, strict=True):
            boundary = self._at_least(values, errors.values, unit, errors.rows)
            near = self._at_least(margins, errors.margins, decision, errors.decisions)
            smallest = decision * (1 - self.relative) - errors.decisions
            far = torch.where(smallest > 0, (margins + errors.margins) * (1 + self.relative) / smallest, math.inf)
            found.append((RegionBound.of(least(boundary), least(near), least(far)), boundary))
        return found

    def _at_least(self, values: Tensor, value_errors: Tensor, norms: Tensor, row_errors: Tensor) -> Tensor:
        """Distances rounded down; inf only for rows that are zero without any rounding."""
        largest = norms * (1 + self.relative) + row_errors
        zero = largest == 0
        numerator = (values - value_errors).clamp(min=0) * (1 - self.relative)
        return torch.where(zero, math.inf, numerator / torch.where(zero, 1.0, largest))

    @torch.no_grad()
    def boxed(self, p: float, box: Ends, unboxed: Tensor) -> RegionBound:
        """The bound inside the box.

        Args:
            p: exponent of the norm.
            box: input box around all points.
            unboxed: certified distances of all units without box in the same norm, [B, N].
        """
        rows = decision_rows(self.region, self.labels).flatten(2)
        margins, slack = self.region.margins(self.labels), self._slack(self.errors.margins, self.errors.decisions, box)
        near = least(self._boxed_at_least(rows, margins, slack, self.points, p, box))
        x = self.points.flatten(1).unsqueeze(1)
        far = least(box_distance(rows, (margins + slack) * (1 + self.relative), x, box, p)) * (1 + self.relative)
        return RegionBound.of(self._nearest_boxed_unit(p, box, unboxed, far), near, far)

    def _slack(self, value_errors: Tensor, row_errors: Tensor, box: Ends) -> Tensor:
        """How far rounding moves <w, z> + b anywhere in the box: the row's error meets moves up to the box's width."""
        return value_errors + row_errors * longest_side(box)

    def _boxed_at_least(
        self, rows: Tensor, values: Tensor, slack: Tensor, points: Tensor, p: float, box: Ends
    ) -> Tensor:
        """Boxed distances rounded down."""
        target = (values.abs() - slack).clamp(min=0) * (1 - self.relative)
        return box_distance(rows, target, points.flatten(1).unsqueeze(1), box, p) * (1 - self.relative)

    def _nearest_boxed_unit(self, p: float, box: Ends, unboxed: Tensor, enough: Tensor) -> Tensor:
        """A lower bound on the least boxed distance of all units: it, or something >= `enough`, [B].

        Units are looked at in the order of their distance without box, which the box can only increase; a point is
        done when the next one is no nearer than the best found, or than `enough`.
        """
        ordered, order = unboxed.sort(dim=1)
        values, count = self.region.hidden(), unboxed.shape[1]
        nearest = least(unboxed)
        slack = self._slack(self.errors.values, self.errors.rows, box)
        best = torch.full_like(enough, math.inf)
        beyond = torch.where(nearest >= enough, nearest, math.inf)
        active = (nearest < enough).nonzero().squeeze(1)
        start, width = 0, FIRST_UNITS
        numbers = 3 * unboxed.element_size() * (count + self.points[0].numel())  # bytes of one unit of one point
        while len(active) and start < count:
            width = max(1, min(width, self.memory // (numbers * len(active))))
            units = order[active, start : start + width]
            rows = unit_rows(self.region.take(active), units).flatten(2)
            value, points = values[active].gather(1, units), self.points[active]
            # Rows are turned so that the value is positive: its sign decides which way the hyperplane lies.
            turned = rows * value.sign().unsqueeze(2)
            found = self._boxed_at_least(turned, value, slack[active].gather(1, units), points, p, box)
            found = torch.where(unboxed[active].gather(1, units).isinf(), math.inf, found)
            best[active] = torch.minimum(best[active], found.amin(1))
            start, width = start + width, min(2 * width, MOST_UNITS)
            following = ordered[active, start] if start < count else torch.full_like(enough[active], math.inf)
            done = following >= torch.minimum(best[active], enough[active])
            beyond[active[done]] = following[done]
            active = active[~done]
        return torch.minimum(best, beyond)
