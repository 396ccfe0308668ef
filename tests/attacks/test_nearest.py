"""The nearest misclassified point: known distances of net G, and never nearer than a certified ball."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.attacks.nearest import nearest
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.settings import NearestSettings
from robustcli.balls import vector_norm
from robustcli.networks.network import margins
from tests.nets import convolutional, golden_network

NORMS = [1.0, 2.0, math.inf]


@pytest.mark.parametrize("p", NORMS)
def test_golden_distance(p: float) -> None:
    network, x, y = golden_network()
    found, distance = nearest(network, x, y, p, None, None, NearestSettings(), point_seeds(0, torch.arange(1)))
    assert float(distance) == pytest.approx(0.112308, abs=1e-5)
    assert float(margins(network(found), y)) < 0
    torch.testing.assert_close(vector_norm(found - x, p), distance, rtol=0, atol=1e-15)
    assert not x.requires_grad
    assert not found.requires_grad


@pytest.mark.parametrize("p", NORMS)
def test_answers_are_misclassified_inside_the_box(p: float) -> None:
    network = convolutional(4).float()
    exact = network.double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = exact(x).argmax(1)
    settings, seeds = NearestSettings(rounds=6, steps=20), point_seeds(0, torch.arange(6))
    found, distance = nearest(network, x, y, p, (0.0, 1.0), None, settings, seeds)
    reached = distance.isfinite()
    assert int(reached.sum()) >= 4
    assert bool((margins(exact(found), y)[reached] < 0).all())
    assert bool(((found >= 0) & (found <= 1)).all())
    torch.testing.assert_close(vector_norm((found - x).flatten(1), p)[reached], distance[reached])
    assert torch.equal(found[~reached], x[~reached])
    # More rounds only come nearer.
    longer = NearestSettings(rounds=8, steps=20)
    assert bool((nearest(network, x, y, p, (0.0, 1.0), None, longer, seeds)[1] <= distance + 1e-6).all())


def test_misclassified_points_are_at_distance_zero() -> None:
    network, x, _ = golden_network()
    settings, seeds = NearestSettings(rounds=2, steps=5), point_seeds(0, torch.arange(1))
    found, distance = nearest(network, x, torch.tensor([0]), 2.0, None, None, settings, seeds)
    assert float(distance) == 0
    assert torch.equal(found, x)


def test_a_constant_network_has_no_nearest_point() -> None:
    network, x, y = golden_network()
    network.layers[-1].weight.data.zero_()
    network.layers[-1].bias.data.copy_(torch.tensor([0.0, 1.0, 0.0]))
    settings, seeds = NearestSettings(rounds=3, steps=5), point_seeds(0, torch.arange(1))
    found, distance = nearest(network, x, y, 2.0, (0.0, 1.0), torch.tensor([math.nan]), settings, seeds)
    assert math.isinf(float(distance))
    assert torch.equal(found, x)
