"""The input box: the values that inputs can take at all, the same for every point."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from robustcli.norms import largest_radius

Ends = tuple[float, float] | tuple[Tensor, Tensor]
"""Lower and upper end: numbers for all coordinates alike, or [d] each, coordinates in flattened order."""
Box = Ends | None
"""None where there is no box."""


def within(points: Tensor, box: Ends, tolerance: float = 0.0) -> Tensor:
    """Whether each point [B, *input_shape] lies in the box, up to `tolerance` -> [B] bool."""
    flat = points.flatten(1)
    return ((flat >= box[0] - tolerance) & (flat <= box[1] + tolerance)).all(1)


def clipped(points: Tensor, box: Box) -> Tensor:
    """Points [B, *input_shape] moved into the box, coordinate by coordinate."""
    if box is None:
        return points
    low, high = cast(Any, box)
    return points.flatten(1).clamp(low, high).view(points.shape)


def converted(box: Box, *args: Any) -> Box:
    """The box in another precision or on another device: `Tensor.to` of both ends; numbers fit everywhere."""
    if box is not None and isinstance(box[0], Tensor) and isinstance(box[1], Tensor):
        return box[0].to(*args), box[1].to(*args)
    return box


def longest_side(box: Ends) -> float:
    """The farthest that a coordinate can move."""
    side = box[1] - box[0]
    return float(side.max()) if isinstance(side, Tensor) else side


def covering_radius(p: float, dimension: int, box: Box) -> float:
    """The radius beyond which an l_p ball around a point of the box contains the whole box (inf without a box)."""
    if box is not None and isinstance(box[0], Tensor):
        return float(torch.linalg.vector_norm(box[1] - box[0], ord=p))
    return largest_radius(p, dimension, cast(tuple[float, float] | None, box))


def named(box: Ends) -> str:
    """The box for people, `[0, 1]`; of unequal sides the outermost ends."""
    low, high = (torch.as_tensor(end) for end in box)
    return f"[{float(low.min()):g}, {float(high.max()):g}]"
