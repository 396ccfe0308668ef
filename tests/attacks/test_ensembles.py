"""What the last members of `standard` are there for: points that gradient steps inside the ball do not break."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from robustcli.attacks.contract import Task
from robustcli.attacks.ensembles import choose
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.registry import ROWS
from robustcli.balls import Ball
from tests.nets import dense


def hard(p: float) -> Task:
    """One such point. In l1 gradient steps ended at a margin of 0.01 or more for each of twelve seeds tried."""
    widths, seed, eps, row = {1.0: ([20, 40, 40, 4], 3, 0.15, 9), math.inf: ([20, 40, 40, 40, 4], 7, 0.01, 64)}[p]
    network = dense(widths, seed)
    for layer in network.layers[::2]:
        layer.weight.data *= 3
    x = torch.rand(70, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.layers[-1].bias.data -= network(x).mean(0)
    network = network.float().requires_grad_(False)
    point = x[row : row + 1]
    ball = Ball.around(point, eps, p, (0.0, 1.0))
    return Task.of(network, ball, network.double()(point).argmax(1), point_seeds(0, torch.tensor([row])))


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_standard_begins_with_gradients_and_finishes_on_linear_pieces(p: float) -> None:
    """From the lowest point that the attacks before it have found."""
    task, members = hard(p), choose(["standard"], p)
    place = [member.name for member in members].index("descent")
    before = [ROWS[member.name].attack(task, member.resolved()) for member in members[:place]]
    lowest = min(before, key=lambda found: float(found.margins))
    found = ROWS["descent"].attack(replace(task, near=lowest.points), members[place].resolved())
    assert bool(found.success)


def test_standard_comes_in_from_outside_in_l1() -> None:
    (member,) = (member for member in choose(["standard"], 1.0) if member.name == "fab")
    assert bool(ROWS["fab"].attack(hard(1.0), member.resolved()).success)
