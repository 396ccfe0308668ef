"""Fast Euclidean projection onto ball and box for the inner loop of the attacks.

Same map as `Ball.project`, found with a few Newton steps on the multiplier instead of a long bisection, and without
waiting for the device. Rounding may leave a point some 1e-7 outside; every reported point goes through `Ball.project`
in float64 afterwards (`verify.confirm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.errors import UnknownNameError
from robustcli.norms import NORMS, norm_name

Projection = Callable[[Tensor], Tensor]

L1_STEPS = 12
L2_STEPS = 5


def projector(ball: Ball) -> Projection:
    """The projection of points [B, *input_shape] onto ball and box, prepared once for many calls.

    Raises:
        UnknownNameError: for a norm other than l1, l2, linf.
    """
    if math.isinf(ball.p):
        lower, upper = ball.bounding_box()
        return lambda points: torch.clamp(points, lower, upper)
    if ball.p not in _MOVES:
        raise UnknownNameError("attack norm", norm_name(ball.p), NORMS)
    move, shape, center = _MOVES[ball.p], ball.center.shape, ball.center.flatten(1)
    eps = ball.eps.unsqueeze(1)
    room = None if ball.box is None else (center - ball.box[0], ball.box[1] - center)
    box = ball.box

    def project(points: Tensor) -> Tensor:
        delta = points.flatten(1) - center
        length = delta.abs()
        cap = None if room is None else torch.where(delta < 0, *room)
        moved = center + torch.copysign(move(length, cap, eps), delta)
        # center + (box end - center) may round past the box end.
        return (moved if box is None else moved.clamp_(*box)).view(shape)

    return project


def _l2_lengths(length: Tensor, cap: Tensor | None, eps: Tensor) -> Tensor:
    """min(s length, cap) with s <= 1 largest such that the l2 norm is at most eps.

    From s = eps / ||length|| upwards: with the coordinates now at their cap fixed, s follows in closed form; the set of
    capped coordinates only grows, so s rises to the root and every iterate is feasible.
    """
    square = length * length
    total = square.sum(1, keepdim=True)
    if cap is None:
        return length * (eps / total.sqrt().clamp(min=1e-30)).clamp(max=1)
    capped_length = torch.minimum(length, cap)
    fits = (capped_length * capped_length).sum(1, keepdim=True) <= eps * eps
    cap_square = cap * cap
    s = (eps / total.sqrt().clamp(min=1e-30)).clamp(max=1)
    for _ in range(L2_STEPS):
        at_cap = s * length >= cap
        left = eps * eps - (cap_square * at_cap).sum(1, keepdim=True)
        free = total - (square * at_cap).sum(1, keepdim=True)
        better = (left.clamp(min=0) / free.clamp(min=1e-30)).sqrt().clamp(max=1)
        s = torch.maximum(s, better)
    scaled = torch.minimum(s * length, cap)
    return torch.where(fits, capped_length, scaled)


def _l1_lengths(length: Tensor, cap: Tensor | None, eps: Tensor) -> Tensor:
    """clip(length - t, 0, cap) with t >= 0 smallest such that the sum is at most eps.

    Newton steps kept inside a bracket; the sum is piecewise linear in t, so few are needed, and the feasible end of the
    bracket is taken.
    """
    wide = length if cap is None else cap

    def lengths(t: Tensor) -> Tensor:
        inner = (length - t).clamp_(min=0)
        return inner if cap is None else torch.minimum(inner, cap, out=inner)

    low = torch.zeros_like(eps)
    high = length.amax(1, keepdim=True)
    t = low
    for _ in range(L1_STEPS):
        now = lengths(t)
        excess = now.sum(1, keepdim=True) - eps
        above = excess > 0
        low, high = torch.where(above, t, low), torch.where(above, high, t)
        slope = ((now > 0) & (now < wide) if cap is not None else now > 0).sum(1, keepdim=True).clamp(min=1)
        newton = t + excess / slope
        inside = (newton > low) & (newton <= high)
        t = torch.where(inside, newton, (low + high) / 2)
    now = lengths(high)
    # The bracket may not be closed to the last digit; what is left of the budget is negligible, never negative.
    return now


_MOVES: dict[float, Callable[[Tensor, Tensor | None, Tensor], Tensor]] = {1.0: _l1_lengths, 2.0: _l2_lengths}
