"""Bounds of neurons on the wrong side of a margin: wherever f_y - f_t <= 0, where every counterexample lies.

There any multiple w >= 0 of the margin may be added to what is bounded (Kotha et al. 2023, INVPROP):

    z_k  >=  min over the ball of  z_k + w (f_y - f_t)        where f_y - f_t <= 0.

The closer the margin is to being proved, the less is left of that side, and the tighter the neurons are held; tighter
neurons bring the margin closer in turn. Neurons whose sign is the same all over it are fixed; where a neuron is left no
value there is no counterexample. A bound of the margin that rests on this and is not positive bounds it as it is; a
positive one proves the margin positive, by contradiction, and nothing more.

Two kinds of bounds take turns, since each gains where the other is stuck: parabolas (`coupling`), which are quick, and
lines with a slope of their own for every pixel (`hulls`).
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound import coupling, hulls
from robustcli.branch_and_bound.coupling import Course
from robustcli.branch_and_bound.optimiser import Schedule
from robustcli.branch_and_bound.system import Functionals, System

FIRST, NEXT = Course(60, 0.96), Course(30, 0.92)  # of the first round; of one that goes on from the round before it
MARGIN = Course(100, 0.965)
ENDS, HULLS = Schedule(30, 0.2, 0.2, 0.9), Schedule(60, 0.1, 0.1, 0.95)
ROUNDS = 16
WORTH = 0.97  # a round that leaves more of the widths is the last of its kind for now


def tightened(
    system: System, margin: Functionals, signs: Tensor, deadline: float = math.inf
) -> tuple[System, Tensor] | None:
    """The system with tighter bounds, and its signs with what these fix; None where no counterexample is left, because
    a neuron has no value left or the margin is positive on what is left.

    Args:
        system: float64, one that `hulls` knows; its bounds hold in the domain, on the wrong side of the margin.
        margin: one functional.
        signs: the domain, [n] int8.
        deadline: in seconds of `time.perf_counter`: no round starts after it.
    """
    numbers, coupled, idle = None, True, 0
    for _ in range(ROUNDS):
        open_ = (signs == 0).nonzero().squeeze(1)
        if idle == 2 or not len(open_) or time.perf_counter() >= deadline:
            break
        wanted = system.forms.take(open_).both_signs()
        if coupled:
            course = FIRST if numbers is None else NEXT
            ends, numbers = coupling.raised(system, wanted, signs, course, margin, numbers, deadline)
        else:
            ends = _by_hulls(system, wanted, signs, ENDS, margin, deadline)
        low, up = ends.tensor_split(2)
        lower, upper = system.lower.clone(), system.upper.clone()
        lower[open_] = torch.maximum(lower[open_], low)
        upper[open_] = torch.minimum(upper[open_], -up)
        if bool((lower > upper).any()):
            return None
        before, after = (system.upper - system.lower)[open_].sum(), (upper - lower)[open_].sum()
        fixed = torch.where(signs != 0, signs, torch.where(lower >= 0, -1, torch.where(upper <= 0, 1, 0)))
        if numbers is not None:
            left = (fixed[open_] == 0).repeat(2).nonzero().squeeze(1)
            numbers = numbers.take(left).with_fixed(fixed != signs)
        system, signs = replace(system, lower=lower, upper=upper), fixed.to(torch.int8)
        if bool(coupling.raised(system, margin, signs, MARGIN)[0] > 0):
            return None
        if not coupled and bool(_by_hulls(system, margin, signs, HULLS) > 0):
            return None
        gained = float(after) <= WORTH * float(before)
        idle = 0 if gained else idle + 1
        coupled = coupled == gained or not coupled
    return system, signs


def _by_hulls(
    system: System,
    wanted: Functionals,
    signs: Tensor,
    schedule: Schedule,
    margin: Functionals | None = None,
    deadline: float = math.inf,
) -> Tensor:
    """Lower bounds of functionals, [R]; -inf for those not begun by the deadline."""
    slopes = adaptive(Bounds(system.lower, system.upper)).to(torch.float32).expand(len(wanted), -1)
    ends = torch.full_like(wanted.constants, -torch.inf)
    for part in hulls.raised(system, wanted, slopes, schedule, signs, margin):
        ends[part.index] = part.proved
        if time.perf_counter() >= deadline:
            break
    return ends
