"""The nearest misclassified point: known distances of net G, and never nearer than a certified ball."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.attacks.nearest import nearest
from robustcli.attacks.settings import NearestSettings
from robustcli.balls import vector_norm
from robustcli.networks.network import margins
from tests.attacks.nearest_cases import NORMS, task
from tests.nets import convolutional, golden_network


@pytest.mark.parametrize("p", NORMS)
def test_golden_distance(p: float) -> None:
    network, x, y = golden_network()
    found = nearest(task(network, x, y, p, None), NearestSettings())
    assert float(found.distances) == pytest.approx(0.112308, abs=1e-5)
    assert float(margins(network(found.points), y)) < 0
    torch.testing.assert_close(vector_norm(found.points - x, p), found.distances, rtol=0, atol=1e-15)
    assert not x.requires_grad
    assert not found.points.requires_grad


@pytest.mark.parametrize("p", NORMS)
def test_answers_are_misclassified_inside_the_box(p: float) -> None:
    network = convolutional(4).float()
    exact = network.double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = exact(x).argmax(1)
    found = nearest(task(network, x, y, p), NearestSettings(rounds=6, steps=20))
    reached = found.success
    assert int(reached.sum()) >= 4
    assert bool((margins(exact(found.points), y)[reached] < 0).all())
    assert bool(((found.points >= 0) & (found.points <= 1)).all())
    torch.testing.assert_close(vector_norm((found.points - x).flatten(1), p)[reached], found.distances[reached])
    assert torch.equal(found.points[~reached], x[~reached])
    # More rounds only come nearer.
    longer = nearest(task(network, x, y, p), NearestSettings(rounds=8, steps=20))
    assert bool((longer.distances <= found.distances + 1e-6).all())
    assert bool((longer.passes > found.passes).all())


def test_a_known_point_sets_the_first_radius() -> None:
    network, x, y = golden_network()
    near = x + torch.tensor([[-0.2, 0.2]], dtype=torch.float64)
    found = nearest(task(network, x, y, math.inf, None, near=near), NearestSettings(rounds=1, steps=20))
    assert float(found.distances) <= 0.18


def test_a_constant_network_has_no_nearest_point() -> None:
    network, x, y = golden_network()
    network.layers[-1].weight.data.zero_()
    network.layers[-1].bias.data.copy_(torch.tensor([0.0, 1.0, 0.0]))
    near = torch.full_like(x, math.nan)
    found = nearest(task(network, x, y, 2.0, near=near), NearestSettings(rounds=3, steps=5))
    assert math.isinf(float(found.distances))
    assert torch.equal(found.points, x)
