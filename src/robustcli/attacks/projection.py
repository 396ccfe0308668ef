"""Fast Euclidean projection onto ball and box for the inner loop of the attacks.

Same map as `Ball.project`, its multiplier found by sorting (l1) or a few closed-form steps (l2) instead of a long
bisection, and without waiting for the device. Rounding may leave a point some 1e-7 outside; every reported point goes
through `Ball.project` in float64 afterwards (`verify.confirm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.errors import UnknownNameError
from robustcli.norms import NORMS, norm_name

Projection = Callable[[Tensor], Tensor]

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
    room = None if ball.box is None else ball.box_room()
    box: Any = ball.box

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

    The sum is piecewise linear in t and falls: its slope drops by 1 at every length - cap and rises by 1 at every
    length. Sorted, these breakpoints give the value at each; t lies behind the last one with a sum above eps.
    """
    cap = length if cap is None else cap
    breaks, order = torch.cat([(length - cap).clamp(min=0), length], 1).sort(1)
    slope = torch.where(order < length.shape[1], -1, 1).to(length.dtype).cumsum(1)
    total = torch.minimum(length, cap).sum(1, keepdim=True)
    value = torch.cat([total, total + (slope[:, :-1] * breaks.diff(dim=1)).cumsum(1)], 1)
    last = (value > eps).sum(1, keepdim=True) - 1
    at = last.clamp(min=0)
    t = breaks.gather(1, at) + (value.gather(1, at) - eps) / (-slope.gather(1, at)).clamp(min=1)
    t = torch.where(last < 0, 0, t)
    now = torch.minimum((length - t).clamp_(min=0), cap)
    # The running sum rounds; what it leaves above eps is taken off evenly.
    return now * (eps / now.sum(1, keepdim=True).clamp(min=1e-30)).clamp(max=1)


_MOVES: dict[float, Callable[[Tensor, Tensor | None, Tensor], Tensor]] = {1.0: _l1_lengths, 2.0: _l2_lengths}
