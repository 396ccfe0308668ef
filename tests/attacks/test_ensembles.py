"""What each member of an ensemble is there for."""

from __future__ import annotations

import torch

from robustcli.attacks.contract import Task
from robustcli.attacks.ensembles import choose
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.registry import ROWS
from robustcli.balls import Ball
from tests.nets import dense


def test_standard_breaks_a_point_in_l1_that_descent_at_the_radius_does_not() -> None:
    """For each of twelve seeds tried, descent inside the ball ended at a margin of 0.01 or more; FAB finds a point at
    0.14988."""
    network = dense([20, 40, 40, 4], 3)
    for layer in network.layers[::2]:
        layer.weight.data *= 3
    x = torch.rand(70, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.layers[-1].bias.data -= network(x).mean(0)
    network = network.float().requires_grad_(False)
    point = x[9:10]
    ball = Ball.around(point, 0.15, 1.0, (0.0, 1.0))
    task = Task.of(network, ball, network.double()(point).argmax(1), point_seeds(0, torch.tensor([9])))
    found = [ROWS[member.name].attack(task, member.resolved()) for member in choose(["standard"], 1.0)]
    assert any(bool(each.success) for each in found)
