"""The largest radius that a bound certifies: the eps-distance of 003 (section 4.4, eq. 17), searched per point.

    F(eps) = min_{s != y} bound on f_y - f_s over the ball of radius eps

falls from the clean margin through 0. Every point has its own bracket [certified, not certified], narrowed by false
position (Illinois) and bisection. What is reported is the certified end: a radius at which the bound itself, safe
against rounding, was positive. (Newton's root in the authors' code can lie just outside.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.types import MarginBounds
from robustcli.boxes import Box, covering_radius
from robustcli.networks.network import Network, margin_rows

Bound = Callable[[Network, Ball, Tensor], MarginBounds]

PRECISION = 1e-4  # relative width of the bracket at the end
COARSE = 1e-3  # the same where an evaluation is dear: l1 and l2 balls in the box
EVALUATIONS = 40
SMALLEST = 1e-12  # a smaller radius counts as none
LARGEST = 1e6


@torch.no_grad()
def largest_certified(
    network: Network, points: Tensor, labels: Tensor, p: float, box: Box, upper: Tensor, bound: Bound = dual
) -> Tensor:
    """Certified radii of correctly classified points, [B]; inf where the whole box is certified.

    Args:
        network: float64.
        points: [B, *input_shape].
        labels: [B].
        p: exponent; in the box the bound knows 1, 2 and inf, any other p is certified without the box.
        upper: distances of known misclassified points, [B], inf for none; no radius beyond is tried.
        bound: lower bounds on margins over balls.
    """
    if p not in (1, 2) and not math.isinf(p):
        box = None
    rows, _ = margin_rows(labels, network.classes, points.dtype)
    whole = covering_radius(p, points[0].numel(), box) * (1 + 1e-12) if len(points) else math.inf

    def worst(eps: Tensor, index: Tensor) -> Tensor:
        found = bound(network, Ball(points[index], eps, p, box), rows[index]).margins.amin(1)
        return torch.where(found.isnan(), -math.inf, found)

    limit = upper.clamp(max=min(whole, LARGEST))
    if box is None:
        return _Bracket(limit, worst, PRECISION).run()
    if math.isinf(p):
        radius = _Bracket(limit, worst, PRECISION).run()
    else:
        # Without the box the rows of the first layer are the same for all points: much cheaper, and nearly as far.
        start = largest_certified(network, points, labels, p, None, limit, bound)
        radius = _Bracket(limit, worst, COARSE, start).run()
    return torch.where(radius >= whole, math.inf, radius)


class _Bracket:
    """Per point: the largest radius certified and the smallest one not certified, with F there.

    Args:
        limit: no radius beyond is tried, [B].
        worst: F for some of the points, at a radius each.
        precision: relative width at which a bracket is done.
        start: radii certified already, in another way; none: 0.
    """

    def __init__(
        self,
        limit: Tensor,
        worst: Callable[[Tensor, Tensor], Tensor],
        precision: float,
        start: Tensor | None = None,
    ) -> None:
        self.limit, self.worst, self.precision = limit, worst, precision
        self.low = torch.zeros_like(limit) if start is None else start.clone()
        self.high = torch.full_like(limit, math.inf)
        self.below = torch.full_like(limit, math.inf)  # F at `low`, > 0; inf where it is not known
        self.above = torch.full_like(limit, -math.inf)  # F at `high`, <= 0
        self.growth = 2.0 if start is None else 1.2
        self.side = torch.zeros_like(limit)  # which end moved last: 1 for `low`, -1 for `high`
        self.open = self.low < limit

    def run(self) -> Tensor:
        """All certified radii."""
        first = torch.where(self.limit < LARGEST, self.limit / 8, 0.01)
        guess = self._grown(first)
        for step in range(EVALUATIONS):
            index = self.open.nonzero().squeeze(1)
            if not len(index):
                break
            self._try(guess[index], index)
            guess = self._next(first, bisect=step % 5 == 4)
        return self.low

    def _try(self, eps: Tensor, index: Tensor) -> None:
        value = self.worst(eps, index)
        sure = value > 0
        up, down = index[sure], index[~sure]
        # Illinois: an end that stays where it is for the second time counts half.
        again = self.side[index] == torch.where(sure, 1.0, -1.0)
        self.above[index[sure & again]] /= 2
        self.below[index[~sure & again]] /= 2
        self.side[up], self.side[down] = 1.0, -1.0
        self.low[up], self.below[up] = eps[sure], value[sure]
        self.high[down], self.above[down] = eps[~sure], value[~sure]
        close = self.high.isfinite() & (self.high - self.low <= self.precision * self.high)
        self.open &= ~(close | (self.low >= self.limit) | (self.high < SMALLEST))

    def _grown(self, first: Tensor) -> Tensor:
        """Radii to try while nothing has failed."""
        return torch.minimum(torch.where(self.low > 0, self.growth * self.low, first), self.limit)

    def _next(self, first: Tensor, bisect: bool) -> Tensor:
        """The next radii: growing while nothing has failed, else inside the bracket."""
        middle = (self.low + self.high) / 2
        share = self.below / (self.below - self.above)
        # Aimed just past the root, so that the other end moves next: the bracket closes from both sides.
        secant = self.low + share * (self.high - self.low) + 0.4 * self.precision * self.side * self.high
        width = (self.high - self.low) / 100
        secant = torch.minimum(torch.maximum(secant, self.low + width), self.high - width)
        inside = middle if bisect else torch.where(secant.isfinite(), secant, middle)
        return torch.where(self.high.isfinite(), inside, self._grown(first))
