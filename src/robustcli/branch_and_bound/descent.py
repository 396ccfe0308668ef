"""Counterexamples from the bounds: descent on the network itself from where a bound is attained.

The minimisers of a relaxation jump between corners of the ball while its slopes improve; their running mean comes close
to the relaxation's own solution, and from both a few conditional-gradient steps (Frank and Wolfe) on the true margin
follow, which stay inside ball and box whatever the norm. All of it on the compact forms, in float32: what it finds is
judged elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.branch_and_bound.system import Functionals, System

STEPS = 30
FIRST, DECAY = 0.1, 0.9  # how far towards the linear minimiser


@torch.no_grad()
def descend(system: System, start: Functionals, points: Tensor) -> tuple[Tensor, Tensor]:
    """Points with a low margin, each near one of the given ones.

    Args:
        system: float32.
        start: the margin to lower, one for each of the D points.
        points: [D, d], inside ball and box.
    Returns:
        points [D, d] and their margins [D].
    """
    best, least = points, torch.full_like(start.constants, torch.inf)
    x = points
    for step in range(STEPS + 1):
        value, gradient = margin(system, start, x)
        better = value < least
        best, least = torch.where(better.unsqueeze(1), x, best), torch.where(better, value, least)
        if step < STEPS:
            x = torch.lerp(x, system.minimiser(gradient), FIRST * DECAY**step)
    return best, least


def margin(system: System, start: Functionals, x: Tensor) -> tuple[Tensor, Tensor]:
    """The functional at x by the network itself, [D], and its gradient, [D, d]."""
    z, y = activations(system, x)
    value = start.constants + (start.pixels * x).sum(1) + (start.neurons * y).sum(1)
    above, on = start.neurons.clone(), (z > 0).to(z.dtype)
    for layer in reversed(system.layers):
        above[:, layer] *= on[:, layer]
        if layer.start:
            above[:, : layer.start] += above[:, layer] @ system.forms.neurons[layer, : layer.start]
    return value, torch.addmm(start.pixels, above, system.forms.pixels)


def activations(system: System, x: Tensor) -> tuple[Tensor, Tensor]:
    """z and y of every neuron at x [D, d], each [D, n]."""
    z = torch.addmm(system.forms.constants, x, system.forms.pixels.T)
    y = torch.empty_like(z)
    for layer in system.layers:
        here = z[:, layer]
        if layer.start:
            here += y[:, : layer.start] @ system.forms.neurons[layer, : layer.start].T
        y[:, layer] = here.relu()
    return z, y
