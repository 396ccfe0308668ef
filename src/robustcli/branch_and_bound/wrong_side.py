"""Bounds of neurons on the wrong side of a margin: wherever f_y - f_t <= 0, where every counterexample lies.

There any multiple w >= 0 of the margin may be added to what is bounded (Kotha et al. 2023, INVPROP):

    z_k  >=  min over the ball of  z_k + w (f_y - f_t)        where f_y - f_t <= 0.

The closer the margin is to being proved, the less is left of that side, and the tighter the neurons are held; tighter
neurons bring the margin closer in turn. Neurons whose sign is the same all over it are fixed; where a neuron is left no
value there is no counterexample. A bound of the margin that rests on this and is not positive bounds it as it is; a
positive one proves the margin positive, by contradiction, and nothing more.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.branch_and_bound.coupling import Course, raised
from robustcli.branch_and_bound.system import Functionals, System

FIRST, NEXT = Course(60, 0.96), Course(30, 0.92)  # of the first round; of one that goes on from the round before it
MARGIN = Course(100, 0.965)
ROUNDS = 12
WORTH = 0.97  # a round that leaves more of the widths is the last


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
    numbers = None
    for _ in range(ROUNDS):
        open_ = (signs == 0).nonzero().squeeze(1)
        if not len(open_) or time.perf_counter() >= deadline:
            break
        wanted = system.forms.take(open_).both_signs()
        ends, numbers = raised(system, wanted, signs, FIRST if numbers is None else NEXT, margin, numbers, deadline)
        low, up = ends.tensor_split(2)
        lower, upper = system.lower.clone(), system.upper.clone()
        lower[open_] = torch.maximum(lower[open_], low)
        upper[open_] = torch.minimum(upper[open_], -up)
        if bool((lower > upper).any()):
            return None
        before, after = (system.upper - system.lower)[open_].sum(), (upper - lower)[open_].sum()
        fixed = torch.where(signs != 0, signs, torch.where(lower >= 0, -1, torch.where(upper <= 0, 1, 0)))
        left = (fixed[open_] == 0).repeat(2).nonzero().squeeze(1)
        numbers = numbers.take(left).with_fixed(fixed != signs)
        system, signs = replace(system, lower=lower, upper=upper), fixed.to(torch.int8)
        if bool(raised(system, margin, signs, MARGIN)[0] > 0):
            return None
        if float(after) > WORTH * float(before):
            break
    return system, signs
