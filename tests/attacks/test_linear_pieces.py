"""Attacks on linear pieces and from relaxations: exact on small nets, never worse than their start, point by point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.descent import descent
from robustcli.attacks.improving import first_points
from robustcli.attacks.latent import latent
from robustcli.attacks.linear_region import linear_region
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.polished import polished
from robustcli.attacks.relaxation import pulled_through, relaxation, weakest
from robustcli.attacks.settings_regions import (
    DescentSettings,
    LatentSettings,
    LinearRegionSettings,
    PolishSettings,
    RelaxationSettings,
    StartSettings,
)
from robustcli.attacks.verify import misclassified
from robustcli.balls import Ball
from robustcli.bounds.backward import Shared, lowest
from robustcli.bounds.dual import dual
from robustcli.bounds.relaxation import lines, parallel
from robustcli.errors import UnknownNameError
from robustcli.networks.network import Network, margin_rows, margins
from robustcli.networks.rows import Rows
from robustcli.regions import lowest as programs
from tests.nets import convolutional, dense, golden_network
from tests.oracle import minimal_distance, minimal_margin, smallest_value
from tests.regions.test_pieces import piece_of

Attack = Callable[[Task], Found]

NORMS = [1.0, 2.0, math.inf]
UNIT = (0.0, 1.0)
SHORT = StartSettings(rounds=4, steps=8)
NEAREST: dict[str, Attack] = {
    "polish": lambda task: polished(task, PolishSettings(pieces=5, start=SHORT)),
    "linear region": lambda task: linear_region(task, LinearRegionSettings(regions=12, start=SHORT)),
}
RADIUS: dict[str, Attack] = {
    "descent": lambda task: descent(task, DescentSettings(pieces=8, steps=20)),
    "relaxation": lambda task: relaxation(task, RelaxationSettings(steps=20)),
    "latent": lambda task: latent(task, LatentSettings(latent_steps=10, steps=20)),
}
ALL = {**NEAREST, **RADIUS}


def knows(name: str, p: float) -> bool:
    return name != "latent" or math.isinf(p)


CASES = [(name, p) for name in ALL for p in NORMS if knows(name, p)]


def task_of(network: Network, count: int, p: float, eps: float, seed: int = 1, **known: Any) -> Task:
    """Random points, after moving the last bias so that no class has them all."""
    x = torch.rand(count, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    network.layers[-1].bias.data -= network.double()(x).mean(0).to(network.dtype)
    network.requires_grad_(False)
    labels = network.double()(x).argmax(1)
    return Task.of(network, Ball.around(x, eps, p, UNIT), labels, point_seeds(0, torch.arange(count)), **known)


def golden_task(p: float, eps: float) -> Task:
    network, x, y = golden_network()
    return Task.of(network.requires_grad_(False), Ball.around(x, eps, p, None), y, point_seeds(0, torch.arange(1)))


def check(task: Task, found: Found) -> None:
    """Successes are witnesses: inside ball and box, misclassified in float64, their distances told truly."""
    assert found.points.dtype == torch.float64
    assert bool(task.ball.contains(found.points)[found.success].all())
    assert torch.equal(found.success & misclassified(task.exact, found.points, task.labels), found.success)
    torch.testing.assert_close(margins(task.exact(found.points), task.labels), found.margins, rtol=0, atol=1e-12)
    assert bool((found.distances.isfinite() == found.success).all())
    torch.testing.assert_close(task.ball.distance(found.points)[found.success], found.distances[found.success])


@pytest.mark.parametrize(("name", "p"), CASES)
def test_answers_are_witnesses(name: str, p: float) -> None:
    task = task_of(convolutional(4).float(), 4, p, {1.0: 3.0, 2.0: 0.6, math.inf: 0.08}[p])
    found = ALL[name](task)
    check(task, found)
    assert int(found.success.sum()) > 0
    assert bool((found.passes[found.success & ~task.nothing().success] > 0).all())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", NEAREST)
def test_golden_distance(name: str, p: float) -> None:
    found = NEAREST[name](golden_task(p, math.inf))
    assert float(found.distances) == pytest.approx(0.112308, abs=1e-6)


@pytest.mark.parametrize("p", NORMS)
def test_equal_to_enumeration_on_small_nets(p: float) -> None:
    """Nearer than any other attack can come: the true distance, for every net and norm tried."""
    exact = 0
    for widths, seed in (([2, 5, 4, 3], 5), ([3, 8, 3], 1), ([2, 12, 2], 4)):
        task = task_of(dense(widths, seed), 3, p, math.inf, seed)
        found = linear_region(task, LinearRegionSettings(regions=40, start=SHORT))
        for row in range(3):
            label = int(task.labels[row])
            true = minimal_distance(task.network, task.ball.center[row], label, p, UNIT)
            assert float(found.distances[row]) >= true - 1e-9
            exact += math.isfinite(true) and float(found.distances[row]) <= true * (1 + 1e-5)
    assert exact >= 8


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", NEAREST)
def test_never_farther_than_the_start(name: str, p: float) -> None:
    task = task_of(dense([8, 10, 10, 3], 2), 8, p, math.inf)
    start = first_points(task, SHORT)
    assert int(start.success.sum()) >= 6
    found = NEAREST[name](replace(task, near=start.points))
    check(task, found)
    assert bool((found.distances <= start.distances)[start.success].all())
    assert int((found.distances < 0.999 * start.distances).sum()) >= 3
    # And of what is known: the answer itself as the start stays, or comes nearer.
    again = NEAREST[name](replace(task, near=found.points))
    assert bool((again.distances <= found.distances).all())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", NEAREST)
def test_a_ball_that_just_holds_the_nearest_point_is_entered_from_outside(name: str, p: float) -> None:
    """The way that leads to a point at distance d leads there as well when no other point counts."""
    free = task_of(dense([8, 10, 10, 3], 2), 8, p, math.inf)
    found = NEAREST[name](free)
    rows = found.success.nonzero().squeeze(1)
    assert len(rows) >= 6
    ball = replace(free.ball, eps=torch.where(found.success, found.distances * 1.0001, 1.0))
    again = NEAREST[name](replace(free, ball=ball))
    assert bool(again.success[rows].all())


@pytest.mark.parametrize("p", NORMS)
def test_descent_ends_in_the_lowest_margin_of_most_small_nets(p: float) -> None:
    """Never below the true minimum; at it (or at a success, where it is negative) unless another valley is deeper."""
    reached = 0
    for seed in (1, 3, 7):
        task = task_of(dense([2, 6, 4, 3], seed), 4, p, 0.15, seed)
        found = descent(task, DescentSettings(pieces=12, steps=1))
        start = descent(task, DescentSettings(pieces=1, steps=1))
        assert bool((found.margins <= start.margins)[~start.success].all())
        for row in range(4):
            true = minimal_margin(task.network, task.ball.center[row], int(task.labels[row]), 0.15, p, UNIT)
            assert float(found.margins[row]) >= true - 1e-8
            reached += bool(found.success[row]) if true < 0 else float(found.margins[row]) <= true + 0.01
    assert reached >= 9


@pytest.mark.parametrize("p", NORMS)
def test_descent_finishes_what_stops_short(p: float) -> None:
    """From a point with a small positive margin to the misclassified one, in a ball that only just holds it."""
    nearest = polished(golden_task(p, math.inf), PolishSettings(start=SHORT)).points
    center = golden_task(p, 1.0).ball.center
    short = center + 0.97 * (nearest - center)
    for eps, falls in ((0.11232, True), (0.1123, False)):
        task = replace(golden_task(p, eps), near=short)
        assert float(margins(task.exact(short), task.labels)) > 0
        found = descent(task, DescentSettings())
        assert bool(found.success) == falls
        assert float(found.margins) < 1e-3


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_lowest_value_of_a_piece(p: float) -> None:
    """Cutting planes against one program with all rows."""
    network, x, label = golden_network()
    piece = piece_of(network, x[0], int(label), p)
    rows, limits, point = -piece.signs[:, None] * piece.rows(range(7)), piece.signs * piece.values, x[0].numpy()
    for eps in (0.01, 0.05, 0.3):
        for target in (0, 1):
            found = programs.lowest(piece, p, UNIT, target, eps)
            true = smallest_value(piece.decisions[target], rows, limits + rows @ point, point, eps, p, UNIT)
            assert found is not None
            assert piece.decisions[target] @ (point + found.move) == pytest.approx(true, abs=1e-8)
            assert np.linalg.norm(found.move, ord=p) <= eps + 1e-9
            assert (rows @ found.move <= limits + 1e-8).all()


@pytest.mark.parametrize("p", NORMS)
def test_minimisers_are_those_of_the_linear_bound(p: float) -> None:
    """The functional that is minimised, with its constant, is the bound of `bounds.backward`."""
    task = task_of(convolutional(2), 3, p, {1.0: 2.0, 2.0: 0.4, math.inf: 0.05}[p])
    network, ball = task.network, task.ball
    rows, others = margin_rows(task.labels, network.classes, torch.float64)
    layers = dual(network, ball, rows).layers
    relaxed = [lines(layer, parallel(layer)) for layer in layers]
    expected = lowest(Rows.whole(rows), network.blocks, Shared(relaxed), ball).view(rows.shape[:2])
    functional = pulled_through(network, relaxed, rows)
    points = weakest(network, ball, task.labels).points[0]
    # At any point of the ball the functional differs from its value at the minimiser by no less than 0.
    for other in (ball.center, ball.minimiser(-functional)[:, 0], ball.sample(1)[:, 0]):
        at = (functional * other.unsqueeze(1)).flatten(2).sum(2)
        best = torch.stack([points[row, others[row]] for row in range(3)])
        low = (functional * best).flatten(2).sum(2)
        assert bool((low <= at + 1e-9).all())
        true = torch.einsum("btk,bk->bt", rows, network(other))
        assert bool((expected + at - low <= true + 1e-7).all())


@pytest.mark.parametrize(("name", "p"), CASES)
def test_what_is_found_does_not_depend_on_the_batch(name: str, p: float) -> None:
    eps = {1.0: 0.3, 2.0: 0.15, math.inf: 0.04}[p] if name in RADIUS else math.inf
    task = task_of(dense([12, 10, 8, 4], 3).float(), 5, p, eps)
    together = ALL[name](task)
    some = torch.tensor([4, 2])
    apart = ALL[name](task.take(some))
    assert torch.equal(apart.points, together.points[some])
    assert torch.equal(apart.success, together.success[some])
    assert torch.equal(apart.passes, together.passes[some])
    torch.testing.assert_close(apart.margins, together.margins[some], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "p"), CASES)
def test_odd_balls_and_nets(name: str, p: float) -> None:
    """Dead nets, points that are misclassified, no rivals, radius 0, inf, or larger than the box, no points at all."""
    dead = dense([4, 3, 2], 0)
    for layer in dead.layers[::2]:
        layer.weight.data.zero_()
        layer.bias.data.fill_(-1)
    dead.layers[-1].bias.data.copy_(torch.tensor([1.0, 0.0]))
    x, label = torch.full((2, 4), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    seeds = point_seeds(0, torch.arange(2))
    for eps, box in ((0.0, UNIT), (7.0, UNIT), (math.inf, None)):
        found = ALL[name](Task.of(dead, Ball.around(x, eps, p, box), label, seeds))
        assert not bool(found.success.any())
        assert found.margins.tolist() == [1.0, 1.0]
        wrong = ALL[name](Task.of(dead, Ball.around(x, eps, p, box), 1 - label, seeds))
        assert bool(wrong.success.all())
        assert torch.equal(wrong.points, x)
        assert wrong.distances.tolist() == [0.0, 0.0]
    task = task_of(dense([4, 6, 3], 5), 3, p, 9.0)
    assert bool((ALL[name](task).distances >= 0).all())
    assert not bool(ALL[name](replace(task, rivals=torch.zeros_like(task.rivals))).success.any())
    assert len(ALL[name](task.take(torch.arange(0))).points) == 0
    flat = task_of(dense([3, 3], 1), 4, p, 5.0)  # no hidden layer
    check(flat, ALL[name](flat))


def test_networks_without_a_clear_start_and_unknown_norms() -> None:
    with pytest.raises(UnknownNameError):
        latent(golden_task(2.0, 0.1), LatentSettings())
    task = golden_task(math.inf, 0.05)  # the nearest misclassified point lies at .1123
    for attack in ALL.values():
        assert not bool(attack(task).success)
