"""Adversarial points for training: inside ball and box, worse than random ones, without traces in the network."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from robustcli.attacks.training import training_points
from robustcli.balls import Ball
from tests.nets import convolutional

NORMS = [1.0, 2.0, math.inf]


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("p", NORMS)
def test_points_lie_inside_and_raise_the_loss(p: float, boxed: bool) -> None:
    network = convolutional(1).float().requires_grad_(True).train()
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1).detach()
    eps = {1.0: 3.0, 2.0: 0.6, math.inf: 0.08}[p]
    ball = Ball.around(x, eps, p, (0.0, 1.0) if boxed else None)
    found = training_points(network, ball, y, 10, None, torch.Generator().manual_seed(3))
    assert bool(ball.contains(found, 1e-5).all())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert network.training
    assert all(weight.grad is None for weight in network.parameters())
    random = ball.sample(1, torch.Generator().manual_seed(0)).squeeze(1)
    with torch.no_grad():
        assert float(cross_entropy(network(found), y)) > 1.2 * float(cross_entropy(network(random), y))
    again = training_points(network, ball, y, 10, None, torch.Generator().manual_seed(3))
    assert torch.equal(found, again)


def test_no_step_gives_the_random_start() -> None:
    network = convolutional(1).float()
    x = torch.full((4, 1, 8, 8), 0.5)
    ball = Ball.around(x, 0.1, math.inf, (0.0, 1.0))
    start = training_points(network, ball, network(x).argmax(1), 0, 0.1, torch.Generator().manual_seed(0))
    moved = (start - x).abs()
    assert bool(((moved > 0) & (moved < 0.1)).all())
