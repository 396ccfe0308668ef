"""The KW eps-distance: golden numbers, certified where it is reported, not far beyond, below the true distance."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.radius import COARSE, largest_certified
from robustcli.networks.network import margin_rows
from tests.nets import convolutional, dense, golden_network
from tests.oracle import Box, minimal_distance

GOLDEN = {math.inf: 0.061834, 2.0: 0.082046, 1.0: 0.096839}


def unknown(count: int) -> torch.Tensor:
    return torch.full((count,), math.inf, dtype=torch.float64)


@pytest.mark.parametrize("p", GOLDEN)
def test_golden(p: float) -> None:
    network, x, label = golden_network()
    radius = float(largest_certified(network, x, label, p, None, unknown(1)))
    assert radius == pytest.approx(GOLDEN[p], rel=2e-4)
    assert radius <= GOLDEN[p] + 1e-6


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_certified_there_and_not_much_farther(p: float, box: Box) -> None:
    network = convolutional(4)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(6, *network.input_shape, generator=generator, dtype=torch.float64)
    labels = network(points).argmax(1)
    rows, _ = margin_rows(labels, network.classes, torch.float64)
    radius = largest_certified(network, points, labels, p, box, unknown(6))
    assert (dual(network, Ball(points, radius, p, box), rows).margins > 0).all()
    beyond = radius * (1 + 2 * COARSE)
    assert (dual(network, Ball(points, beyond, p, box), rows).margins.amin(1) < 0).all()
    alone = torch.cat(
        [largest_certified(network, points[i : i + 1], labels[i : i + 1], p, box, unknown(1)) for i in (0, 3)]
    )
    assert torch.allclose(radius[[0, 3]], alone, rtol=1e-3)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_below_the_true_distance(p: float, box: Box) -> None:
    for seed in (3, 9):
        network = dense([3, 8, 3], seed)
        points = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        labels = network(points).argmax(1)
        true = [minimal_distance(network, x, int(y), p, box) for x, y in zip(points, labels, strict=True)]
        upper = torch.tensor(true, dtype=torch.float64)
        for known in (upper, unknown(3)):
            radius = largest_certified(network, points, labels, p, box, known)
            assert (radius > 0).all()
            assert (radius <= upper + 1e-12).all()


def test_where_everything_is_certified() -> None:
    """A constant network: the whole box, and without one a radius that is merely large."""
    network = dense([2, 3, 2])
    network.layers[2].weight.data.zero_()
    network.layers[2].bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    x, label = torch.full((1, 2), 0.4).double(), torch.tensor([0])
    for p in (1.0, 2.0, math.inf):
        assert float(largest_certified(network, x, label, p, (0.0, 1.0), unknown(1))) == math.inf
        assert 1 < float(largest_certified(network, x, label, p, None, unknown(1))) < math.inf


def test_a_norm_the_box_does_not_know_is_certified_without_it() -> None:
    network, x, label = golden_network()
    boxed, free = (largest_certified(network, x, label, 1.5, box, unknown(1)) for box in ((0.0, 1.0), None))
    assert torch.equal(boxed, free)
    assert GOLDEN[2.0] * 0.99 < float(free) < GOLDEN[1.0] * 1.01
