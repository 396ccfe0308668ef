"""What members of `standard` are there for: points that the others do not break."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from robustcli.attacks.contract import Task
from robustcli.attacks.ensembles import choose
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.registry import ROWS
from robustcli.attacks.settings import WideSettings
from robustcli.balls import Ball
from tests.nets import dense


def hard(p: float) -> Task:
    """One such point: few random starts of gradient steps, or none, lead to a misclassified one."""
    widths, seed, eps, row = {
        1.0: ([20, 40, 40, 4], 3, 0.15, 9),
        2.0: ([20, 40, 40, 4], 1, 0.206, 8),
        math.inf: ([20, 40, 40, 40, 4], 7, 0.01, 64),
    }[p]
    network = dense(widths, seed)
    for layer in network.layers[::2]:
        layer.weight.data *= 3
    x = torch.rand(70, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.layers[-1].bias.data -= network(x).mean(0)
    network = network.float().requires_grad_(False)
    point = x[row : row + 1]
    ball = Ball.around(point, eps, p, (0.0, 1.0))
    return Task.of(network, ball, network.double()(point).argmax(1), point_seeds(0, torch.tensor([row])))


def test_standard_finishes_on_linear_pieces() -> None:
    """From the lowest point that the attacks before it have found, none of which breaks this one."""
    task, members = hard(math.inf), choose(["standard"], math.inf)
    place = [member.name for member in members].index("descent")
    before = [ROWS[member.name].attack(task, member.resolved()) for member in members[:place]]
    assert not any(bool(found.success) for found in before)
    lowest = min(before, key=lambda found: float(found.margins))
    found = ROWS["descent"].attack(replace(task, near=lowest.points), members[place].resolved())
    assert bool(found.success)


def test_standard_starts_often_in_l1() -> None:
    """Short runs from many places break what longer runs, and runs against single classes, do not."""
    *first, many = (member.resolved() for member in choose(["standard"], 1.0) if member.name == "apgd-wide")
    assert not any(bool(ROWS["apgd-wide"].attack(hard(1.0), settings).success) for settings in [*first, WideSettings()])
    assert bool(ROWS["apgd-wide"].attack(hard(1.0), many).success)


def test_standard_comes_in_from_outside_in_l1() -> None:
    (member,) = (member for member in choose(["standard"], 1.0) if member.name == "fab")
    assert bool(ROWS["fab"].attack(hard(1.0), member.resolved()).success)


def test_standard_comes_in_from_outside_in_l2() -> None:
    *before, member = choose(["standard"], 2.0)
    assert not any(bool(ROWS[one.name].attack(hard(2.0), one.resolved()).success) for one in before)
    assert bool(ROWS[member.name].attack(hard(2.0), member.resolved()).success)
