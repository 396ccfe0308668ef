"""The linear relaxation of a ReLU on [l, u]: one line below it and one above it.

    lower z  <=  relu(z)  <=  upper z + gap,        upper = u / (u - l),  gap = -upper l,  any lower in [0, 1]

at units with l < 0 < u; the ReLU itself (slope 1 or 0, no gap) elsewhere. The line above is the best there is; the
slope of the line below is free, and what tells the methods apart:

    parallel   u / (u - l)               KW dual = Fast-Lin = area-minimal zonotope (003, Wong and Kolter 2018)
    adaptive   1 if u >= -l else 0       CROWN (Zhang et al. 2018): the triangle of smaller area
    optimised  by gradients              alpha-CROWN (Xu et al. 2021)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.bounds.types import Bounds

Rule = Callable[[Bounds], Tensor]
"""Slopes of the lower lines from bounds, [B, *shape]; only its values at unstable units matter."""


@dataclass(frozen=True)
class Lines:
    """lower z <= relu(z) <= upper z + gap on [l, u], each [B, *shape]."""

    lower: Tensor
    upper: Tensor
    gap: Tensor

    def take(self, index: Tensor | slice) -> Lines:
        """The lines of some of the points."""
        return Lines(self.lower[index], self.upper[index], self.gap[index])


def adaptive(bounds: Bounds) -> Tensor:
    """CROWN's slope of the lower line: 1 where the ReLU is mostly on, else 0."""
    return (bounds.upper >= -bounds.lower).to(bounds.lower.dtype)


def parallel(bounds: Bounds) -> Tensor:
    """The slope of the upper line, u / (u - l)."""
    unstable = bounds.unstable
    width = torch.where(unstable, bounds.upper - bounds.lower, torch.ones_like(bounds.lower))
    return torch.where(unstable, bounds.upper / width, torch.ones_like(width))


def lines(bounds: Bounds, slope: Tensor, rows: torch.dtype | None = None) -> Lines:
    """Lines around the ReLU on [l, u].

    The line above must hold exactly for the slope as rounded: its intercept is the larger of what both ends need,
    rounded up.

    Args:
        bounds: of the pre-activations.
        slope: of the lower line, [B, *shape]; counts only at unstable units, cut to [0, 1] (no other slope is sound).
        rows: precision of the rows that will be multiplied with the slopes, which are rounded to it; None: the bounds'.
    """
    unstable, stable = bounds.unstable, bounds.active.to(bounds.lower.dtype)
    slope, rising = slope.clamp(0, 1), parallel(bounds)
    if rows is not None:
        slope, rising = slope.to(rows).to(slope.dtype), rising.to(rows).to(rising.dtype)
    upper = torch.where(unstable, rising, stable)
    needed = torch.maximum(-upper * bounds.lower, bounds.upper - upper * bounds.upper)
    number = torch.finfo(upper.dtype)
    slack = 4 * number.eps * (bounds.upper.abs() + bounds.lower.abs()) + number.tiny
    gap = torch.where(unstable, needed + slack, torch.zeros_like(upper))
    return Lines(torch.where(unstable, slope, stable), upper, gap)
