"""APGD from far outside: sound, reproducible point by point, and strong enough to find what is known to be there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.attacks.apgd_wide import apgd_wide
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.pace import checkpoints
from robustcli.attacks.settings import WideSettings
from robustcli.attacks.verify import confirm, misclassified
from robustcli.attacks.wide import phases
from robustcli.balls import Ball
from robustcli.networks.network import Network, margins
from tests.nets import convolutional, dense, golden_network

NORMS = [1.0, 2.0, math.inf]
QUICK = WideSettings(steps=30, restarts=3, targets=2)
SMALLEST = 0.112308
"""Distance of net G's point to the nearest misclassified one, in all three norms (golden number)."""


def attack(network: Network, x: Tensor, y: Tensor, eps: float, p: float, **options: object) -> Found:
    box = options.pop("box", (0.0, 1.0))
    settings = options.pop("settings", QUICK)
    seeds = point_seeds(0, options.pop("indices", torch.arange(len(x))))  # type: ignore[arg-type]
    task = Task.of(network, Ball.around(x, eps, p, box), y, seeds)  # type: ignore[arg-type]
    return apgd_wide(task, settings)  # type: ignore[arg-type]


def points(network: Network, count: int) -> tuple[Tensor, Tensor]:
    """Random points and their classes, after moving the last bias so that no class has them all."""
    x = torch.rand(count, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.layers[-1].bias.data -= network.double()(x).mean(0).to(network.dtype)
    return x, network.double()(x).argmax(1)


@pytest.mark.parametrize("p", NORMS)
def test_golden_network_falls_exactly_where_it_should(p: float) -> None:
    network, x, y = golden_network()
    assert bool(attack(network, x, y, SMALLEST + 2e-5, p, box=None).success)
    below = attack(network, x, y, SMALLEST - 2e-5, p, box=None)
    assert not bool(below.success)
    assert float(below.margins) > 0


def test_golden_margins_inside_linf_balls() -> None:
    """True minima at eps .1 (.05) and .2 (-.35625): never passed, the first nearly reached."""
    network, x, y = golden_network()
    assert float(attack(network, x, y, 0.1, math.inf, box=None).margins) == pytest.approx(0.05, abs=1e-6)
    deep = float(attack(network, x, y, 0.2, math.inf, box=None).margins)
    assert -0.35625 - 1e-9 <= deep < 0


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("normalise", [True, False])
def test_successes_are_witnesses(p: float, boxed: bool, normalise: bool) -> None:
    network = convolutional(4, normalise=normalise)
    x, y = points(network, 12)
    box = (0.0, 1.0) if boxed else None
    eps = {1.0: 3.0, 2.0: 0.6, math.inf: 0.08}[p]
    result = attack(network, x, y, eps, p, box=box)
    assert int(result.success.sum()) > 0
    ball = Ball.around(x, eps, p, box)
    assert bool(ball.contains(result.points).all())
    assert result.points.dtype == result.margins.dtype == torch.float64
    torch.testing.assert_close(margins(network(result.points), y), result.margins, rtol=0, atol=1e-12)
    assert torch.equal(result.success, misclassified(network, result.points, y))


@pytest.mark.parametrize("p", NORMS)
def test_float32_search_is_judged_in_float64(p: float) -> None:
    single = dense([20, 16, 16, 4], 3).float()
    x, y = points(single, 10)
    result = attack(single, x, y, {1.0: 0.3, 2.0: 0.15, math.inf: 0.04}[p], p)
    torch.testing.assert_close(margins(single.double()(result.points), y), result.margins, rtol=0, atol=1e-12)
    assert 0 < int(result.success.sum()) < 10


@pytest.mark.parametrize("p", NORMS)
def test_what_is_found_does_not_depend_on_the_batch(p: float) -> None:
    network = dense([20, 16, 16, 4], 3).float()
    x, y = points(network, 70)
    eps = {1.0: 0.3, 2.0: 0.15, math.inf: 0.04}[p]
    together = attack(network, x, y, eps, p)
    some = torch.tensor([69, 3, 40])
    assert 5 < int(together.success.sum()) < 65
    apart = attack(network, x[some], y[some], eps, p, indices=some)
    assert torch.equal(apart.points, together.points[some])
    torch.testing.assert_close(apart.margins, together.margins[some], rtol=0, atol=1e-12)


def test_attacking_twice_finds_the_same() -> None:
    network, x, y = golden_network()
    first, second = (attack(network, x, y, 0.15, 2.0, box=None) for _ in range(2))
    assert torch.equal(first.points, second.points)


@pytest.mark.parametrize("p", NORMS)
def test_more_runs_never_find_less(p: float) -> None:
    network = dense([20, 16, 16, 4], 5)
    x, y = points(network, 40)
    eps = {1.0: 0.3, 2.0: 0.15, math.inf: 0.04}[p]
    one = attack(network, x, y, eps, p, settings=WideSettings(steps=30, restarts=1, targets=0))
    assert 5 < int(one.success.sum()) < 35
    more = attack(network, x, y, eps, p, settings=WideSettings(steps=30, restarts=4, targets=3))
    assert bool((one.success <= more.success).all())
    assert bool((more.margins[~more.success] <= one.margins[~more.success]).all())


def test_misclassified_points_are_their_own_witnesses() -> None:
    network, x, _ = golden_network()
    result = attack(network, x, torch.tensor([0]), 0.01, math.inf, box=None)
    assert bool(result.success)
    assert torch.equal(result.points, x)


def test_dead_gradients_do_no_harm() -> None:
    """All ReLUs off: the gradient is 0 everywhere, nothing moves, nothing is NaN."""
    network = dense([4, 3, 2], 0)
    for layer in network.layers[::2]:
        layer.weight.data.zero_()
        layer.bias.data.copy_(-torch.ones_like(layer.bias))
    network.layers[2].bias.data.copy_(torch.tensor([1.0, 0.0]))
    for p in NORMS:
        result = attack(network, torch.full((3, 4), 0.5).double(), torch.zeros(3, dtype=torch.int64), 0.3, p)
        assert not bool(result.success.any())
        assert result.margins.tolist() == [1.0, 1.0, 1.0]


def test_steps_of_one_length_and_of_one_sparsity() -> None:
    network, x, y = golden_network()
    for loss in ("margin", "ce"):
        plain = WideSettings(steps=40, restarts=20, targets=0, loss=loss, step_size=0.02)
        assert bool(attack(network, x, y, 0.2, math.inf, box=None, settings=plain).success)
    for sparsity in (0.01, 1.0):
        fixed = WideSettings(steps=60, restarts=4, targets=0, sparsity=sparsity)
        assert bool(attack(network, x, y, 0.2, 1.0, box=None, settings=fixed).success)


def test_nothing_to_attack() -> None:
    network, x, y = golden_network()
    result = attack(network, x[:0], y[:0], 0.1, 2.0)
    assert result.points.shape == (0, 2)
    assert result.success.shape == (0,)


def test_the_input_keeps_no_gradient() -> None:
    network, x, y = golden_network()
    result = attack(network, x, y, 0.1, 2.0)
    assert not x.requires_grad
    assert not result.points.requires_grad
    assert all(weight.grad is None for weight in network.parameters())


def test_confirm_rejects_ties_and_pulls_points_inside() -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, 0.2, math.inf, (0.0, 1.0))
    far = confirm(network, ball, y, x + 5)
    assert bool(ball.contains(far.points).all())
    tie = network.double()
    tie.layers[-1].weight.data.zero_()
    tie.layers[-1].bias.data.zero_()
    assert not bool(confirm(tie, ball, y, x).success)


def test_checkpoints_of_apgd() -> None:
    """For 100 steps: intervals 22, 19, 16, 13, 10, 7, then 6 (Croce & Hein 2020, section 3)."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert min(checkpoints(1)) == 1


@pytest.mark.parametrize("steps", [1, 4, 9, 20, 100, 101])
def test_phases_use_all_steps_and_end_in_the_ball(steps: int) -> None:
    plan = phases(WideSettings(steps=steps))
    assert sum(phase.steps for phase in plan) == steps
    assert plan[-1].multiple == 1
    assert [phase.multiple for phase in phases(WideSettings())] == [32, 16, 8, 4, 2, 1]
    assert [phase.multiple for phase in phases(WideSettings(step_size=0.1))] == [1]
