"""The convex hull of a ReLU over the ball, as lines above with a slope of their own for every pixel.

A neuron z = P x + c of the first layer with pixels between bounds (linf). For any shares G between 0 and P

    relu(z) <= G x + k,     k = max( max over the ball of -G x,  max over the ball of (P - G) x + c ):

either side of the ReLU lies below the line. The triangle's line is one of them, G = P u/(u - l); together they describe
the whole hull of {(x, relu(z))} (Anderson et al. 2020, section 3; its dual: De Palma et al. 2021), which the triangle
misses by more, the more pixels a neuron sees. In coordinates t in [-1, 1] of the pixels, with W = P half,

    a bound's gradient in G_ji half_i is  A_j (t_i +- sign W_ji)  at its minimiser t, + where k is the first maximum,

so that its running mean over the steps is made of the running means of t and of the signs: a step is three passes over
the numbers G and keeps no moments of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.branch_and_bound.optimiser import Schedule, Work
from robustcli.branch_and_bound.passes import backward, forward, proved
from robustcli.branch_and_bound.system import Functionals, Hulls, System

MEMORY = 0.5  # weight of the past in the running means
SEEN = 0.25  # share of the pixels
ROUNDINGS = 64
TINY = 1e-30  # no division by 0
NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 26}  # of G in one batch


@dataclass(frozen=True)
class Raised:
    """What was found for some of the functionals.

    Args:
        index: which, [R].
        theta: slopes, [R, n] float32.
        hulls: lines for each of them, float64, true in spite of rounding.
        proved: the bounds they give, [R] float64.
    """

    index: Tensor
    theta: Tensor
    hulls: Hulls
    proved: Tensor


def known(system: System) -> bool:
    """Whether the search knows the ball, and the neurons of the first layer see enough of it for the hulls to pay:
    behind small windows they gain less than splits do for the same time."""
    if not math.isinf(system.p) or not system.size:
        return False
    seen = (system.forms.pixels[system.layers[0]] != 0).to(torch.float32).mean()
    return float(seen) >= SEEN


@torch.no_grad()
def raised(
    system: System,
    start: Functionals,
    theta: Tensor,
    schedule: Schedule,
    signs: Tensor | None = None,
    against: Functionals | None = None,
) -> Iterator[Raised]:
    """Lines above, and slopes, that raise the lower bound of each of R functionals over the whole ball; batch by batch.

    Args:
        system: float64, linf.
        start: float64.
        theta: slopes to begin with, [R, n] float32.
        schedule: steps; `slope` is the rate of slopes and of shares.
        signs: of neurons that are fixed in all of them, [n] int8.
        against: one functional; the bounds need only hold where it is not positive. Any multiple of it may be added.
    """
    count = system.layers[0].stop
    unit, half = in_room(system), (system.up + system.down) / 2
    rough, wanted = unit.to(torch.float32), moved(start, system).to(torch.float32)
    limit = None if against is None else moved(against, system).to(torch.float32)
    fixed = torch.zeros_like(theta[0], dtype=torch.int8) if signs is None else signs
    numbers = NUMBERS.get(theta.device.type, NUMBERS["cpu"])
    every = torch.arange(len(start), device=theta.device)
    for index in every.split(max(1, numbers // (count * len(half) + 1))):
        here, part = fixed.expand(len(index), -1), start.take(index)
        found = _search(rough, wanted.take(index), theta[index] * (here == 0), here, schedule, limit)
        lines = above(system, torch.where(half > 0, found.shares.to(half.dtype) / half, 0.0))
        if against is not None:
            part = part.plus(against, found.weights.to(half.dtype))
        bounds = proved(replace(system, hulls=lines), part, here, found.theta)
        yield Raised(index, found.theta, lines, bounds)


def above(system: System, pixels: Tensor) -> Hulls:
    """The lines with slopes G, with constants that make them true in spite of rounding.

    Args:
        system: float64.
        pixels: any G, [n1, d] or [R, n1, d].
    """
    count = pixels.shape[-2]
    forms, constants = system.forms.pixels[:count], system.forms.constants[:count]
    largest = system.center.abs() + torch.maximum(system.down, system.up)
    off = -system.minimum(pixels.flatten(0, -2)).view(pixels.shape[:-1])
    on = constants - system.minimum((pixels - forms).flatten(0, -2)).view(pixels.shape[:-1])
    sizes = pixels.abs() @ largest
    number = torch.finfo(pixels.dtype)
    rounding = (4 * len(largest) + ROUNDINGS) * number.eps
    slack = (
        rounding * (2 * sizes + system.forms.sizes[:count]) + system.forms.errors[:count] + number.tiny * len(largest)
    )
    k = torch.maximum(off, on) + slack
    return Hulls(pixels, k, sizes + k.abs())


@dataclass(frozen=True)
class _Found:
    """Shares between 0 and W, [R, n1, d] in units of t; slopes and multipliers, [R, n]; weights of `against`, [R]."""

    shares: Tensor
    theta: Tensor
    weights: Tensor


def _search(
    system: System, start: Functionals, theta: Tensor, signs: Tensor, schedule: Schedule, against: Functionals | None
) -> _Found:
    first = system.layers[0]
    whole, constants = system.forms.pixels[first], system.forms.constants[first]
    size, low, high = whole.abs(), whole.clamp(max=0), whole.clamp(min=0)
    width = size.sum(1).clamp(min=TINY)
    upper = constants + width
    shares = (whole * (upper / (2 * width)).clamp(0, 1).unsqueeze(1)).repeat(len(theta), 1, 1)
    none = shares.new_zeros(())  # sizes only matter where something is proved
    work = Work.of(replace(system, hulls=Hulls(shares, none, none)), start, signs, theta, schedule)
    weights = torch.zeros_like(start.constants)
    moves: list[Tensor] = []
    for step in range(schedule.steps):
        off = torch.linalg.vector_norm(shares, ord=1, dim=2)
        on = width - off + constants
        now = replace(system, hulls=Hulls(shares, torch.maximum(off, on), none))
        wanted = start if against is None else start.plus(against, weights)
        found = backward(now, wanted, work.phases, work.theta)
        t = -found.rows.sign()
        z, y = forward(now, work.phases, work.theta, found.above, t)
        rate = schedule.slope * schedule.decay**step
        means = [t, torch.where(off > on, 1.0, -1.0)]
        if against is not None:
            means.append(((against.pixels * t).sum(1) + (against.neurons * y).sum(1) + against.constants).sign())
        moves = [torch.lerp(new, old, MEMORY) for old, new in zip(moves or means, means, strict=True)]
        work.climb(
            torch.addcmul(work.phases.signs * z, work.phases.free * z, found.above.clamp(min=0)), step, schedule.decay
        )
        shares.addcmul_(size, moves[0].unsqueeze(1), value=-rate)
        shares.addcmul_(whole, moves[1].unsqueeze(2), value=-rate)
        torch.clamp(shares, low, high, out=shares)
        if against is not None:
            unit = start.sizes / against.sizes.clamp(min=TINY)
            weights = torch.addcmul(weights, moves[2], unit, value=rate).clamp(min=0)
    return _Found(shares, work.theta, weights)


def in_room(system: System) -> System:
    """The same system in coordinates t in [-1, 1] of its pixels."""
    zero = torch.zeros_like(system.center)
    return replace(
        system,
        forms=moved(system.forms, system),
        margins=moved(system.margins, system),
        center=zero,
        down=zero + 1,
        up=zero + 1,
        boxed=True,
    )


def moved(functionals: Functionals, system: System) -> Functionals:
    """Functionals of the pixels as functionals of t."""
    middle, half = system.center + (system.up - system.down) / 2, (system.up + system.down) / 2
    constants = functionals.constants + functionals.pixels @ middle
    return replace(functionals, pixels=functionals.pixels * half, constants=constants)
