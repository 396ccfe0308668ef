"""All gradient attacks with a fixed radius: sound, point by point, no dearer than they say, unmoved by odd inputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.registry import ROWS
from robustcli.attacks.verify import misclassified
from robustcli.balls import Ball
from robustcli.networks.network import Network, margins
from tests.nets import dense, golden_network

NORMS = [1.0, 2.0, math.inf]
EPS = {1.0: 0.3, 2.0: 0.15, math.inf: 0.04}
SMALLEST = 0.112308
"""Distance of net G's point to the nearest misclassified one, in all three norms (golden number)."""

SMALL: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "pgd": {"steps": 12, "restarts": 2},
    "apgd-ce": {"steps": 12, "restarts": 2},
    "apgd-dlr": {"steps": 12, "restarts": 2},
    "apgd-margin": {"steps": 12, "restarts": 2},
    "apgd-t": {"steps": 12, "targets": 3},
    "apgd-t-dlr": {"steps": 12, "targets": 3},
    "apgd-wide": {"steps": 12, "restarts": 2, "targets": 2},
}


def attack(name: str, task: Task, **options: Any) -> Found:
    row = ROWS[name]
    return row.attack(task, row.settings(**{**SMALL[name], **options}))


def some_task(p: float, count: int = 70, seed: int = 3) -> Task:
    """Points of a small float32 net, about half of which fall; every class has some."""
    network = dense([20, 16, 16, 4], seed)
    x = torch.rand(count, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.layers[-1].bias.data -= network(x).mean(0)
    network = network.float().requires_grad_(False)
    ball = Ball.around(x, EPS[p], p, (0.0, 1.0))
    return Task.of(network, ball, network.double()(x).argmax(1), point_seeds(0, torch.arange(count)))


def golden_task(eps: float, p: float) -> Task:
    network, x, y = golden_network()
    return Task.of(network.requires_grad_(False), Ball.around(x, eps, p, None), y, point_seeds(0, torch.arange(1)))


def constant(network: Network, logits: list[float]) -> Network:
    """The same layers, all ReLUs off."""
    for layer in network.layers[::2]:
        layer.weight.data.zero_()
        layer.bias.data.fill_(-1)
    network.layers[-1].bias.data.copy_(torch.tensor(logits))
    return network.requires_grad_(False)


def around(network: Network, x: Tensor, labels: Tensor, eps: float, p: float) -> Task:
    return Task.of(network, Ball.around(x, eps, p, (0.0, 1.0)), labels, point_seeds(0, torch.arange(len(x))))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", SMALL)
def test_what_is_found_holds_and_costs_what_it_may(name: str, p: float) -> None:
    task = some_task(p)
    found = attack(name, task)
    assert bool(task.ball.contains(found.points).all())
    assert torch.equal(found.success, misclassified(task.exact, found.points, task.labels))
    torch.testing.assert_close(margins(task.exact(found.points), task.labels), found.margins, rtol=0, atol=1e-12)
    assert torch.equal(found.distances.isfinite(), found.success)
    assert 10 < int(found.success.sum()) < 60
    clean = margins(task.exact(task.ball.center), task.labels)
    assert bool((found.margins <= clean + 1e-12).all())
    row = ROWS[name]
    most = row.passes(row.settings(**SMALL[name]), 4, p)
    assert 0 < int(found.passes.max()) <= most
    assert int(found.passes[~found.success].max()) > 0.8 * most


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", SMALL)
def test_points_know_nothing_of_each_other(name: str, p: float) -> None:
    """Points, margins and passes of a few are those found among many, in whatever order."""
    task, some = some_task(p), torch.tensor([69, 3, 40, 8])
    together, apart = attack(name, task), attack(name, task.take(some))
    assert torch.equal(apart.points, together.points[some])
    assert torch.equal(apart.margins, together.margins[some])
    assert torch.equal(apart.passes, together.passes[some])


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", SMALL)
def test_the_golden_network_falls_where_it_should(name: str, p: float) -> None:
    """Not below the distance of the nearest misclassified point; the strong attacks do not miss it a little above."""
    assert not bool(attack(name, golden_task(SMALLEST - 2e-5, p)).success)
    if name not in ("fgsm", "pgd", "apgd-dlr"):
        assert bool(attack(name, golden_task(SMALLEST * 1.25, p), steps=100).success)


@pytest.mark.parametrize("p", NORMS)
def test_targeted_and_untargeted_runs_find_at_least_what_plain_steps_find(p: float) -> None:
    """On the sum over nets: APGD with as many passes breaks no fewer points."""
    plain = adaptive = targeted = both = 0
    for seed in (3, 4, 5):
        task = some_task(p, 40, seed)
        one = attack("pgd", task, steps=30, restarts=6).success
        two = attack("apgd-margin", task, steps=30, restarts=3).success
        three = attack("apgd-t", task, steps=30, targets=3).success
        plain, adaptive, targeted = plain + int(one.sum()), adaptive + int(two.sum()), targeted + int(three.sum())
        both += int((two | three).sum())
    assert adaptive >= plain
    assert both >= max(adaptive, targeted)
    assert both > plain


@pytest.mark.parametrize("p", NORMS)
def test_more_restarts_never_find_less(p: float) -> None:
    task = some_task(p)
    few, many = attack("apgd-ce", task, restarts=1), attack("apgd-ce", task, restarts=3)
    assert bool((few.success <= many.success).all())
    assert torch.equal(few.points[few.success], many.points[few.success])
    assert bool((many.margins <= few.margins).all())


def test_fgsm_is_a_step_along_the_signs() -> None:
    """On an affine net the step is exact: x - eps sign(w), clipped."""
    network = dense([6, 2], 0)
    w = network.layers[0].weight.data[0] - network.layers[0].weight.data[1]
    x = torch.rand(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    network.layers[0].bias.data.copy_(torch.tensor([3.0, 0.0]))
    task = around(network.requires_grad_(False), x, torch.zeros(9, dtype=torch.int64), 0.2, math.inf)
    expected = (x - 0.2 * w.sign()).clamp(0, 1)
    torch.testing.assert_close(attack("fgsm", task).points, expected, rtol=0, atol=1e-8)


def test_plain_steps_have_the_length_asked_for() -> None:
    """One step of 0.01 from the point itself; on an affine net it goes straight down."""
    network = dense([6, 2], 0)
    w = network.layers[0].weight.data[0] - network.layers[0].weight.data[1]
    network.layers[0].bias.data.copy_(torch.tensor([9.0, 0.0]))
    x = torch.full((1, 6), 0.5, dtype=torch.float64)
    task = around(network.requires_grad_(False), x, torch.tensor([0]), 0.3, math.inf)
    found = attack("pgd", task, steps=1, restarts=1, start="point", step_size=0.01)
    torch.testing.assert_close(found.points, x - 0.01 * w.sign(), rtol=0, atol=1e-9)
    found = attack("pgd", task, steps=4, restarts=1, start="point")
    torch.testing.assert_close(found.points, x - 0.3 * w.sign(), rtol=0, atol=1e-8)


class TestOddInputs:
    """No NaN, no witness that is none, no endless work."""

    @pytest.mark.parametrize("p", NORMS)
    @pytest.mark.parametrize("name", SMALL)
    def test_dead_networks(self, name: str, p: float) -> None:
        network = constant(dense([4, 3, 3], 0), [1.0, 0.0, 0.0])
        x = torch.tensor([[0.5] * 4, [0.0] * 4, [1.0] * 4], dtype=torch.float64)
        found = attack(name, around(network, x, torch.zeros(3, dtype=torch.int64), 0.3, p))
        assert not bool(found.success.any())
        assert found.margins.tolist() == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("p", NORMS)
    @pytest.mark.parametrize("name", SMALL)
    def test_saturated_logits(self, name: str, p: float) -> None:
        """Logits a million times as large, a softmax of exact ones and zeros: no attack finds less for it."""
        task = some_task(p, 30)
        before = attack(name, task)
        task.network.layers[-1].weight.data *= 1e6
        task.network.layers[-1].bias.data *= 1e6
        after = attack(name, Task.of(task.network, task.ball, task.labels, task.seeds))
        assert int(after.success.sum()) >= int(before.success.sum()) - 1

    @pytest.mark.parametrize("name", SMALL)
    def test_points_misclassified_already_cost_next_to_nothing(self, name: str) -> None:
        task = some_task(2.0, 10)
        wrong = Task.of(task.network, task.ball, (task.labels + 1) % 4, task.seeds)
        found = attack(name, wrong)
        assert bool(found.success.all())
        assert torch.equal(found.points, task.ball.center)
        assert int(found.passes.sum()) == 0

    @pytest.mark.parametrize("p", NORMS)
    @pytest.mark.parametrize("name", SMALL)
    def test_balls_larger_than_the_box(self, name: str, p: float) -> None:
        task = some_task(p, 12)
        huge = around(task.network, task.ball.center, task.labels, 1e4, p)
        found = attack(name, huge)
        assert bool(huge.ball.contains(found.points).all())
        assert int(found.success.sum()) > 6

    @pytest.mark.parametrize("p", NORMS)
    @pytest.mark.parametrize("name", SMALL)
    def test_two_classes_and_one(self, name: str, p: float) -> None:
        network = dense([8, 6, 2], 1).requires_grad_(False)
        x = torch.rand(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        network.layers[-1].bias.data -= network(x).mean(0)
        labels = network(x).argmax(1)
        assert int(attack(name, around(network, x, labels, 3 * EPS[p], p)).success.sum()) > 3
        single = dense([8, 6, 1], 1).requires_grad_(False)
        found = attack(name, around(single, x, torch.zeros(20, dtype=torch.int64), 3 * EPS[p], p))
        assert not bool(found.success.any())
        assert int(found.passes.sum()) == 0
        assert bool((found.margins == math.inf).all())

    @pytest.mark.parametrize("p", NORMS)
    @pytest.mark.parametrize("name", SMALL)
    def test_networks_that_answer_nothing(self, name: str, p: float) -> None:
        """A weight that is no number: nothing is claimed, and points stay where they are."""
        task = some_task(p, 5)
        task.network.layers[0].weight.data[0, 0] = math.nan
        broken = Task.of(task.network, task.ball, task.labels, task.seeds)
        found = attack(name, broken)
        assert not bool(found.success.any())
        assert bool(found.points.isfinite().all())
        assert bool(task.ball.contains(found.points).all())

    @pytest.mark.parametrize("name", SMALL)
    def test_no_points(self, name: str) -> None:
        task = some_task(2.0, 3).take(torch.zeros(0, dtype=torch.int64))
        assert len(attack(name, task).success) == 0

    @pytest.mark.parametrize("name", SMALL)
    def test_rivals_ruled_out_are_not_aimed_at(self, name: str) -> None:
        """Without any rival there is nothing to do."""
        task = some_task(math.inf, 6)
        none = Task.of(task.network, task.ball, task.labels, task.seeds, torch.zeros_like(task.rivals))
        assert int(attack(name, none).passes.sum()) == 0
