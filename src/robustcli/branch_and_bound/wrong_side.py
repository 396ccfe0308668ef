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

from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound import hulls
from robustcli.branch_and_bound.optimiser import Schedule
from robustcli.branch_and_bound.system import Functionals, System

ENDS = Schedule(30, 0.2, 0.2, 0.9)
ROUNDS = 8
WORTH = 0.97  # a round that leaves more of the widths is the last


def tightened(
    system: System, margin: Functionals, signs: Tensor, deadline: float = math.inf
) -> tuple[System, Tensor] | None:
    """The system with tighter bounds, and its signs with what these fix; None where no counterexample is left.

    Args:
        system: float64, one that `hulls` knows; its bounds hold in the domain, on the wrong side of the margin.
        margin: one functional.
        signs: the domain, [n] int8.
        deadline: in seconds of `time.perf_counter`: no round starts after it.
    """
    for _ in range(ROUNDS):
        open_ = (signs == 0).nonzero().squeeze(1)
        if not len(open_) or time.perf_counter() >= deadline:
            break
        slopes = adaptive(Bounds(system.lower, system.upper)).to(torch.float32).expand(2 * len(open_), -1)
        wanted = system.forms.take(open_).both_signs()
        ends = torch.cat([part.proved for part in hulls.raised(system, wanted, slopes, ENDS, signs, margin)])
        low, up = ends.tensor_split(2)
        lower, upper = system.lower.clone(), system.upper.clone()
        lower[open_] = torch.maximum(lower[open_], low)
        upper[open_] = torch.minimum(upper[open_], -up)
        if bool((lower > upper).any()):
            return None
        before, after = (system.upper - system.lower)[open_].sum(), (upper - lower)[open_].sum()
        found = torch.where(lower >= 0, -1, torch.where(upper <= 0, 1, 0)).to(torch.int8)
        signs = torch.where(signs == 0, found, signs)
        system = replace(system, lower=lower, upper=upper)
        if float(after) > WORTH * float(before):
            break
    return system, signs
