"""What every bound returns: bounds on hidden pre-activations, and lower bounds on linear functionals of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """lower <= value <= upper for one hidden layer before its ReLU, each [B, *shape].

    For a unit whose sign is already settled the bounds may be looser than the method's own: only the sign is used.
    """

    lower: Tensor
    upper: Tensor

    @property
    def unstable(self) -> Tensor:
        """lower < 0 < upper: the ReLU can be on either side, [B, *shape] bool.

        A bound that is not a number proves no sign: such a unit counts as unstable, so that nothing rests on it.
        """
        return ~((self.lower >= 0) | (self.upper <= 0))

    @property
    def active(self) -> Tensor:
        """lower >= 0 (and not identically zero): the ReLU passes its input, [B, *shape] bool."""
        return (self.lower >= 0) & (self.upper > 0)

    def take(self, index: Tensor | slice) -> Bounds:
        """The bounds of some of the points."""
        return Bounds(self.lower[index], self.upper[index])

    def intersect(self, other: Bounds) -> Bounds:
        """The tighter of two sound bounds, entry by entry."""
        return Bounds(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))


@dataclass(frozen=True)
class MarginBounds:
    """Lower bounds on rows @ logits over each ball.

    Args:
        margins: [B, T], one per functional.
        layers: bounds on the L hidden pre-activations they rest on.
    """

    margins: Tensor
    layers: list[Bounds]
