"""Descent on the network itself: its margin and gradient are those of the network, and it never leaves the ball."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.branch_and_bound.descent import descend, margin
from robustcli.branch_and_bound.system import System
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import convolutional, dense

BALLS = [(math.inf, 0.3), (2.0, 0.8), (1.0, 1.2)]


def samples(found: Case, system: System, count: int) -> tuple[Tensor, Tensor]:
    """Points of the ball, [N, *input_shape], and their coordinates in the system, [N, d]."""
    points = found.ball.sample(count, torch.Generator().manual_seed(0))[0]
    return points, points.flatten(1)[:, system.coordinates]


@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", [0, 1])
def test_margin_and_gradient_are_the_networks(which: int, p: float, eps: float) -> None:
    network = [dense([4, 7, 6, 3], 3), convolutional(2, side=6)][which]
    found = case(network, center(network, 1), eps, p, (0.0, 1.0), wider=0.5)
    system = found.system
    points, x = samples(found, system, 30)
    points.requires_grad_()
    for target in range(len(found.targets)):
        true = network(points) @ found.rows[target]
        (slope,) = torch.autograd.grad(true.sum(), points)
        start = system.margins.take(torch.full((len(x),), target))
        value, gradient = margin(system, start, x)
        assert torch.allclose(value, true.detach(), atol=1e-10)
        assert torch.allclose(gradient, slope.flatten(1)[:, system.coordinates], atol=1e-10)


@pytest.mark.parametrize(("p", "eps"), BALLS)
def test_descent_only_lowers_and_stays_inside(p: float, eps: float) -> None:
    lower = 0
    for seed in range(5):
        network = dense([5, 9, 8, 3], seed)
        found = case(network, center(network, seed), eps, p, (0.0, 1.0), wider=0.5)
        system = found.system
        points, x = samples(found, system, 20)
        start = system.margins.take(torch.zeros(len(x), dtype=torch.int64))
        before, _ = margin(system, start, x)
        best, value = descend(system, start, x)
        whole = found.ball.center.flatten(1).repeat(len(x), 1)
        whole[:, system.coordinates] = best
        every = found.ball.take(torch.zeros(len(x), dtype=torch.int64))
        assert every.contains(whole.view(points.shape), 1e-9).all()
        assert (value <= before).all()
        assert torch.allclose(value, network(whole.view(points.shape)) @ found.rows[0], atol=1e-9)
        lower += int((value < before - 1e-3).sum())
    assert lower >= 50
