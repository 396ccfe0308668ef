"""Box-constrained l_p distance from a point to a hyperplane, exact for p = 1 and 1.1 <= p <= inf (000 appendix A.1).

    min ||delta||_p   such that   <w, x + delta> + b = 0,   x + delta in the box.

Each coordinate moves towards the hyperplane by at most the room c_i >= 0 the box leaves; with a_i = |w_i| and
rho = |<w, x> + b| it remains to reach sum a_i delta_i = rho. Optimal moves (KKT) are

    p > 1:   delta_i = min(u s_i, c_i),   s_i = a_i^(1/(p-1))   (s_i = 1 for p = inf)
    p = 1:   the largest a_i first, each up to its room

so sum a_i delta_i is piecewise linear and increasing in u: sort its breakpoints, find the piece, solve it. When even
sum a_i c_i < rho the hyperplane misses the box and the distance is inf.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.balls import vector_norm
from robustcli.boxes import Ends
from robustcli.errors import UsageError

SMALLEST = 1e-300  # keeps a^(1/(p-1)) from vanishing
NEAREST_TO_ONE = 1.1  # below, a^(1/(p-1)) leaves the range of float64 for weights within it


@torch.no_grad()
def box_projection(rows: Tensor, values: Tensor, points: Tensor, box: Ends, p: float) -> Tensor:
    """The moves delta to the nearest points of hyperplanes inside the box, in float64.

    Args:
        rows: w, [..., d].
        values: <w, x> + b at the point, [...].
        points: x inside the box, [..., d], broadcastable to rows.
        box: around the points.
        p: exponent of the norm, 1 or at least 1.1.
    Returns:
        delta, [..., d]; all inf where the hyperplane misses the box.
    Raises:
        UsageError: for 1 < p < 1.1, where float64 cannot tell the moves apart.
    """
    check_exponent(p)
    toward = -values.sign().unsqueeze(-1) * rows.sign()
    down, up = points - box[0], box[1] - points
    room = torch.where(toward > 0, up, down) * (toward != 0)
    weight, target = rows.abs(), values.abs()
    length = _greedy(weight, room, target) if p == 1 else _proportional(weight, room, target, p)
    missed = (weight * room).sum(-1) < target
    return torch.where(missed.unsqueeze(-1), math.inf, toward * length)


def check_exponent(p: float) -> None:
    """Refuse exponents between 1 and 1.1.

    Raises:
        UsageError: for them.
    """
    if 1 < p < NEAREST_TO_ONE:
        raise UsageError(
            f"no box-constrained distances for p = {p:g}", f"use p = 1, p >= {NEAREST_TO_ONE:g}, or --no-box"
        )


def box_distance(rows: Tensor, values: Tensor, points: Tensor, box: Ends, p: float) -> Tensor:
    """||delta||_p of `box_projection`: [...], inf where the hyperplane misses the box, 0 where it contains x."""
    return vector_norm(box_projection(rows, values, points, box, p), p)


def projection(rows: Tensor, values: Tensor, p: float) -> Tensor:
    """The moves delta [..., d] to the nearest points of hyperplanes without a box; all inf for zero rows.

    delta = -value s / <w, s> with s_i = sign(w_i) |w_i|^(q-1): for p = 1 one coordinate of largest |w_i| moves, for
    p = inf all move alike (equality in Hoelder's inequality).
    """
    size = rows.abs()
    largest = size.amax(-1, keepdim=True)
    if p == 1:
        shape = torch.zeros_like(rows).scatter(-1, size.argmax(-1, keepdim=True), 1.0)
    else:
        shape = _shape(size, largest, p) * (size > 0)
    direction = rows.sign() * shape
    along = (rows * direction).sum(-1, keepdim=True)
    missed = largest == 0
    return torch.where(missed, math.inf, -values.unsqueeze(-1) * direction / torch.where(missed, 1.0, along))


def _shape(weight: Tensor, largest: Tensor, p: float) -> Tensor:
    """s_i = (a_i / max a)^(1/(p-1)), 1 for p = inf."""
    if math.isinf(p):
        return torch.ones_like(weight)
    return (weight / torch.where(largest > 0, largest, 1.0)).pow(1 / (p - 1)).clamp(min=SMALLEST)


def _greedy(weight: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """p = 1: spend the room of the heaviest coordinates first, the last one only as far as needed."""
    order = weight.argsort(dim=-1, descending=True)
    heavy, space = weight.gather(-1, order), room.gather(-1, order)
    gain = heavy * space
    left = target.unsqueeze(-1) - (gain.cumsum(-1) - gain)
    used = torch.minimum(space, left.clamp(min=0) / heavy.clamp(min=SMALLEST))
    return torch.zeros_like(weight).scatter(-1, order, used * (heavy > 0))


def _proportional(weight: Tensor, room: Tensor, target: Tensor, p: float) -> Tensor:
    """p > 1: delta_i = min(u s_i, c_i) with u from the piece of the piecewise linear equation that contains rho."""
    shape = _shape(weight, weight.amax(-1, keepdim=True), p)
    bend = room / shape  # the u at which coordinate i meets its room; 0 for coordinates that cannot move
    order = bend.argsort(dim=-1)
    bends = bend.gather(-1, order)
    full = (weight * room).gather(-1, order)
    slope = (weight * shape * (room > 0)).gather(-1, order)
    filled = full.cumsum(-1) - full  # gained by the coordinates already full, before each bend
    free = slope.flip(-1).cumsum(-1).flip(-1)  # slope of the others; summed from the end: no cancellation
    reached = filled + bends * free
    place = (reached < target.unsqueeze(-1)).sum(-1, keepdim=True).clamp(max=weight.shape[-1] - 1)
    rest = (target.unsqueeze(-1) - filled.gather(-1, place)).clamp(min=0)
    u = rest / free.gather(-1, place).clamp(min=SMALLEST)
    return torch.minimum(u * shape, room)
