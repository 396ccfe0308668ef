"""Tighter bounds of hidden neurons, by a little branch and bound over the layers below each of them.

A neuron's pre-activation is a margin of the network cut off above it. After alpha-CROWN has optimised the slopes, both
ends of all unstable neurons of a layer are bounded in one batch. Where the neurons of the first layer see many pixels,
parabolas above them do it (`coupling`): on a plainly trained dense network they take more off the widths than 64 rounds
of splits, in a third of the time. Elsewhere, round after round, the worst domain of every end is split; the bound of an
end is the least of its domains. That halves what the margins lack, where the best slopes alone hardly move them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.alpha import alpha
from robustcli.bounds.layered import Effort
from robustcli.bounds.optimiser import Ascent
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound import coupling, hulls
from robustcli.branch_and_bound.branching import choose
from robustcli.branch_and_bound.domains import Domains
from robustcli.branch_and_bound.optimiser import INSIDE, Schedule, ascend
from robustcli.branch_and_bound.passes import proved
from robustcli.branch_and_bound.system import System
from robustcli.networks.network import Network

SLOPES = Effort(hidden=Ascent(iterations=20), enough=None)
FIRST = Schedule(8, 0.2, 0.0, 0.95)
COUPLED = coupling.Course(100, 0.965)
FEW = 32  # neurons below, up to which splits still gain on parabolas
ROUNDS = 64
WORK = 3e11
"""Multiplications for one layer, about: rounds end where they would take more. A number, not a time: runs repeat."""


def refined(network: Network, ball: Ball, layers: Sequence[Bounds], batch: int, deadline: float) -> list[Bounds]:
    """Hidden bounds at least as tight as the given ones.

    Args:
        network: float64.
        ball: one ball.
        layers: sound hidden bounds, each [1, *shape].
        batch: domains bounded at once.
        deadline: in seconds of `time.perf_counter`: no round starts after it.
    """
    if time.perf_counter() >= deadline or len(layers) < 2:
        return list(layers)
    nothing = ball.center.new_zeros(1, 0, network.classes)
    found = alpha(network, ball, nothing, known=layers, effort=SLOPES).layers
    for position in range(1, len(found)):
        if time.perf_counter() < deadline and bool(found[position].unstable.any()):
            found[position] = _layer(network, ball, found, position, batch, deadline)
    return found


@torch.no_grad()
def _layer(
    network: Network, ball: Ball, layers: Sequence[Bounds], position: int, batch: int, deadline: float
) -> Bounds:
    bounds = layers[position]
    units = bounds.unstable.flatten().nonzero().squeeze(1)
    count = len(units)
    one = torch.zeros(count, bounds.lower.numel(), dtype=torch.float64, device=units.device)
    one[torch.arange(count), units] = 1.0
    system = System.of(network.below(position), ball, layers[:position], torch.cat([one, -one]))
    low, up = bounds.lower.flatten(), bounds.upper.flatten()
    ends = torch.cat([low[units], -up[units]])
    wide = hulls.known(system)
    if wide:
        signs = torch.zeros_like(system.lower, dtype=torch.int8)
        ends = torch.maximum(ends, coupling.raised(system, system.margins, signs, COUPLED, deadline=deadline)[0])
    if not wide or system.size <= FEW:
        ends = _by_splits(system, ends, batch, deadline)
    lower, upper = low.clone(), up.clone()
    lower[units], upper[units] = ends[:count], -ends[count:]
    return Bounds(lower.view_as(bounds.lower), upper.view_as(bounds.upper))


def _by_splits(system: System, ends: Tensor, batch: int, deadline: float) -> Tensor:
    """The ends, raised round after round by splitting the worst domain of each."""
    leaves = _Leaves(system, ends, batch)
    each = len(ends) * system.size * (system.size + len(system.center)) * 4 * INSIDE.steps
    for _ in range(int(min(ROUNDS, WORK / (each + 1)))):
        if time.perf_counter() >= deadline or not leaves.split():
            break
    return leaves.ends()


class _Leaves:
    """The domains of all ends; what is known of an end, [E], never falls."""

    def __init__(self, system: System, known: Tensor, batch: int) -> None:
        self.system, self.rough, self.batch, self.known = system, system.to(torch.float32), batch, known
        slopes = adaptive(Bounds(system.lower, system.upper)).repeat(len(known), 1)
        targets = torch.arange(len(known), device=known.device)
        self.domains = self.bounded(Domains.roots(targets, slopes, known), FIRST)

    def ends(self) -> Tensor:
        """The bound of every end: the least over its domains."""
        least = torch.full_like(self.known, torch.inf)
        least = least.scatter_reduce(0, self.domains.targets, self.domains.proved, "amin")
        return torch.maximum(self.known, least)

    def split(self) -> bool:
        """Split the worst domain of every end that matters; whether there was one."""
        worst = self.worst()
        if not len(worst):
            return False
        kept = torch.ones(len(self.domains), dtype=torch.bool, device=worst.device)
        kept[worst] = False
        parts = [self.domains.take(kept)]
        for some in worst.split(max(1, self.batch // 2)):
            domains = self.domains.take(some)
            units = choose(self.rough, domains, 1)[:, 0]
            whole = units < 0
            parts.append(domains.take(whole))
            if not bool(whole.all()):
                parts.append(self.bounded(domains.take(~whole).split(units[~whole]), INSIDE))
        self.domains = Domains.joined(parts)
        return True

    def worst(self) -> Tensor:
        """The domain with the least bound of each end of the neurons whose sign is open."""
        ends = self.ends()
        low, up = ends.tensor_split(2)
        open_ = ((low < 0) & (up < 0)).repeat(2)
        order = self.domains.proved.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        first = torch.full_like(ends, len(order), dtype=torch.int64)
        first = first.scatter_reduce(0, self.domains.targets, rank, "amin")
        return order[first[open_ & (first < len(order))]]

    def bounded(self, domains: Domains, schedule: Schedule) -> Domains:
        """The domains with the best bound found and the theta behind it."""
        parts = []
        for some in torch.arange(len(domains), device=domains.targets.device).split(self.batch):
            part = domains.take(some)
            rough, start = self.rough.margins.take(part.targets), self.system.margins.take(part.targets)
            theta = ascend(self.rough, rough, part.signs, part.theta, schedule, torch.inf).theta
            lower = proved(self.system, start, part.signs, theta)
            parts.append(replace(part, theta=theta, proved=torch.maximum(lower, part.proved)))
        return Domains.joined(parts)
