"""Fast Euclidean projection onto ball and box for the inner loop of the attacks.

Same map as `Ball.project`, its multiplier found by a few Newton steps (l1: by sorting where these do not end) instead
of a long bisection, and without waiting for the device. Rounding may leave a point some 1e-7 outside; every reported
point goes through `Ball.project` in float64 afterwards (`verify.confirm`).

What is done entry by entry is arithmetic: on a CPU a comparison of two tensors takes ten times as long as their
minimum, and a mask thirty times, so that sets are told by the sign of a difference.
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

STEPS = {2.0: 3, 1.0: 8}
"""Newton's steps of all rows on a CPU, where the few rows that need more go on alone. Elsewhere, where asking for them
would wait for the device, l2 takes more steps with all rows, and l1 sorts."""
MORE = 5
"""Newton's steps of l2 in each further round, and how many rounds there are at most."""
FAR = 1e30
"""A move this much longer ends at the box (one so short that it does not is shorter than any box all the same)."""


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
    lowest = None if room is None else -room[0]
    box: Any = ball.box

    def project(points: Tensor) -> Tensor:
        delta = points.flatten(1) - center
        if room is None or lowest is None:
            return (center + move(delta, None, eps)).view(shape)
        cap = torch.clamp(delta * FAR, lowest, room[1])
        # center + (box end - center) may round past the box end.
        return (center + move(delta, cap, eps)).clamp_(*box).view(shape)

    return project


def _l2_move(delta: Tensor, cap: Tensor | None, eps: Tensor) -> Tensor:
    """s delta cut at cap, with s <= 1 largest such that the l2 norm is at most eps.

    In u = s^2 the squared norm is sum_i min(u delta_i^2, cap_i^2), concave and piecewise linear. Newton's steps from
    u = 0 rise to the root: every iterate is feasible.

    Args:
        delta: [B, d]; cap: the same with every entry as far as the box lets it go, or None.
        eps: [B, 1].
    """
    square = delta * delta
    total = square.sum(1, keepdim=True)
    if cap is None:
        return delta * (eps / total.sqrt().clamp(min=1e-30)).clamp(max=1)
    cap_square = cap * cap
    radius = eps * eps
    u = (radius / total.clamp(min=1e-30)).clamp_(max=1)
    if delta.device.type != "cpu":
        u, _ = _l2_newton(square, cap_square, radius, u, STEPS[2.0] + MORE)
    else:
        u, done = _l2_newton(square, cap_square, radius, u, STEPS[2.0])
        for _ in range(MORE):
            if not len(rows := (~done).squeeze(1).nonzero().squeeze(1)):
                break
            u[rows], done[rows] = _l2_newton(square[rows], cap_square[rows], radius[rows], u[rows], MORE)
    return _cut(delta * u.sqrt(), cap)


def _l2_newton(square: Tensor, cap_square: Tensor, radius: Tensor, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """u <= 1 of `_l2_move` after some steps, and for which rows it is found, [B, 1] each; radius squared."""
    lack = radius
    for _ in range(steps):
        now = torch.minimum(square * u, cap_square)
        lack = radius - now.sum(1, keepdim=True)
        free = torch.linalg.vecdot(square, (cap_square - now).sign_()).unsqueeze(1)
        u = (u + (lack / free.clamp(min=1e-30)).clamp_(min=0)).clamp_(max=1)
    return u, (lack <= _precise(radius)) | (u >= 1)


def _precise(radius: Tensor) -> Tensor:
    """What sums of a norm's parts may be off."""
    return 64 * torch.finfo(radius.dtype).eps * radius


def _l1_move(delta: Tensor, cap: Tensor | None, eps: Tensor) -> Tensor:
    """sign(delta) clip(|delta| - t, 0, |cap|) with the smallest t >= 0 whose sum is at most eps; shapes as above."""
    length = delta.abs()
    limit = length if cap is None else cap.abs()
    fits = torch.minimum(length, limit).sum(1, keepdim=True) <= eps
    if delta.device.type != "cpu":
        t = _sorted(length, limit, eps)
    else:
        t, done = _newton(length, limit, eps, fits)
        if len(rows := (~done).squeeze(1).nonzero().squeeze(1)):
            t[rows] = _sorted(length[rows], limit[rows], eps[rows])
    now = torch.minimum((length - torch.where(fits, 0, t)).relu_(), limit)
    # Sums round; what they leave above eps is taken off evenly.
    return torch.copysign(now * (eps / now.sum(1, keepdim=True).clamp(min=1e-30)).clamp(max=1), delta)


def _newton(length: Tensor, limit: Tensor, eps: Tensor, fits: Tensor) -> tuple[Tensor, Tensor]:
    """t of `_l1_move` where the sum is above eps at t = 0, and for which rows it is found, or they fit: [B, 1] each.

    The sum falls, but bends both ways, so that the root is kept between two ends, and their middle is taken where a
    step leaves them. A step of an attack ends near its ball, so that few steps find it.
    """
    t = torch.zeros_like(eps)
    low, high = t, length.amax(1, keepdim=True)
    for _ in range(STEPS[1.0]):
        above = (length - t).relu_()
        cut = (above - limit).relu_()
        excess = (above.sum(1, keepdim=True) - cut.sum(1, keepdim=True)) - eps
        done = (excess.abs() <= _precise(eps)) | fits
        if bool(done.all()):
            return t, done
        slope = above.sign_().sum(1, keepdim=True) - cut.sign_().sum(1, keepdim=True)
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        step = t + excess / slope.clamp(min=1)
        step = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        t = torch.where(done, t, step)  # a row that is done stays, whatever the others need
    now = torch.minimum((length - t).relu_(), limit).sum(1, keepdim=True)
    return t, ((now - eps).abs() <= _precise(eps)) | fits


def _sorted(length: Tensor, limit: Tensor, eps: Tensor) -> Tensor:
    """t of `_l1_move`, [B, 1].

    The sum is piecewise linear in t: its slope drops by 1 at every length - limit and rises by 1 at every length.
    Sorted, these breakpoints give the value at each; t lies behind the last one with a sum above eps.
    """
    breaks, order = torch.cat([(length - limit).clamp(min=0), length], 1).sort(1)
    slope = torch.where(order < length.shape[1], -1, 1).to(length.dtype).cumsum(1)
    total = torch.minimum(length, limit).sum(1, keepdim=True)
    value = torch.cat([total, total + (slope[:, :-1] * breaks.diff(dim=1)).cumsum(1)], 1)
    at = ((value > eps).sum(1, keepdim=True) - 1).clamp(min=0)
    return breaks.gather(1, at) + (value.gather(1, at) - eps) / (-slope.gather(1, at)).clamp(min=1)


def _cut(move: Tensor, cap: Tensor) -> Tensor:
    """A move along cap, no farther than cap in any entry."""
    far = cap.abs()
    return torch.clamp(move, -far, far)


_MOVES: dict[float, Callable[[Tensor, Tensor | None, Tensor], Tensor]] = {1.0: _l1_move, 2.0: _l2_move}
