"""What each member of an ensemble is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustcli.attacks.contract import Task
from robustcli.attacks.ensembles import choose
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.registry import ROWS
from robustcli.balls import Ball
from tests.nets import dense


@pytest.fixture
def task() -> Task:
    """A point with an l1 ball of 0.15 and a misclassified point at 0.14988. For each of twelve seeds tried, gradient
    steps ended at a margin of 0.01 or more."""
    network = dense([20, 40, 40, 4], 3)
    for layer in network.layers[::2]:
        layer.weight.data *= 3
    x = torch.rand(70, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.layers[-1].bias.data -= network(x).mean(0)
    network = network.float().requires_grad_(False)
    point = x[9:10]
    ball = Ball.around(point, 0.15, 1.0, (0.0, 1.0))
    return Task.of(network, ball, network.double()(point).argmax(1), point_seeds(0, torch.tensor([9])))


def test_standard_begins_in_l1_with_gradients_and_finishes_on_linear_pieces(task: Task) -> None:
    """From the lowest point that the attacks before it have found."""
    members = choose(["standard"], 1.0)
    place = [member.name for member in members].index("descent")
    before = [ROWS[member.name].attack(task, member.resolved()) for member in members[:place]]
    lowest = min(before, key=lambda found: float(found.margins))
    found = ROWS["descent"].attack(replace(task, near=lowest.points), members[place].resolved())
    assert bool(found.success)


def test_standard_comes_in_from_outside_in_l1(task: Task) -> None:
    (member,) = (member for member in choose(["standard"], 1.0) if member.name == "fab")
    assert bool(ROWS["fab"].attack(task, member.resolved()).success)
