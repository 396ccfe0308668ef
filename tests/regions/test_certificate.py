"""Theorem 3.1 with and without box: golden numbers, and the true distances of small networks by enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.networks.network import Network, margins
from robustcli.regions.affine import Region
from robustcli.regions.certificate import Certificate, RegionBound
from tests.nets import convolutional, dense, golden_network
from tests.oracle import Box, minimal_distance, minimal_margin
from tests.regions.test_affine import points_of
from tests.regions.test_distances import GOLDEN

UNIT = (0.0, 1.0)
PS = [1.0, 2.0, math.inf]


def certificate(network: Network, points: torch.Tensor, labels: torch.Tensor) -> Certificate:
    return Certificate.of(Region.of(network, points), points, labels)


@pytest.mark.parametrize("p", PS)
def test_golden(p: float) -> None:
    """Seeded fault `box dropped`: unit 2 of layer 1 is farther inside the box."""
    made = certificate(*golden_network())
    ((bound, units),) = made.unboxed([p])
    assert torch.allclose(units, torch.tensor([GOLDEN[p][0]], dtype=torch.float64), atol=1e-6)
    assert float(bound.boundary) == pytest.approx(min(GOLDEN[p][0]), abs=1e-6)
    assert float(bound.decision) == pytest.approx(GOLDEN[p][1][0], abs=1e-6)
    assert not bound.exact
    boxed = {1.0: 0.55, 2.0: 0.390512, math.inf: 0.283333}[p]
    only_second = torch.where(torch.arange(7) == 1, units, math.inf)
    far = torch.full((1,), math.inf, dtype=torch.float64)
    assert float(made._nearest_boxed_unit(p, UNIT, only_second, far)) == pytest.approx(boxed, abs=1e-6)
    whole = made.boxed(p, UNIT, units)
    assert float(whole.boundary) == pytest.approx(min(GOLDEN[p][0]), abs=1e-6)
    assert float(whole.decision) == pytest.approx(GOLDEN[p][1][0], abs=1e-6)


def test_never_above_the_true_distance_and_equal_where_exact() -> None:
    exact = {None: 0, UNIT: 0}
    for widths in ([2, 5, 4, 3], [3, 8, 3], [2, 12, 2], [4, 6, 2]):
        for seed in (3, 5, 7, 9):
            network = dense(widths, seed)
            points = points_of(network, 3, seed)
            labels = network(points).argmax(1)
            made = certificate(network, points, labels)
            for p, (free, units) in zip(PS, made.unboxed(PS), strict=True):
                for box, bound in ((None, free), (UNIT, made.boxed(p, UNIT, units))):
                    exact[box] += check(network, points, labels, p, box, bound)
    assert min(exact.values()) >= 10


def check(network: Network, points: torch.Tensor, labels: torch.Tensor, p: float, box: Box, bound: RegionBound) -> int:
    """Compare a bound with the enumeration; how many of its points are exact."""
    for row, point in enumerate(points):
        true = minimal_distance(network, point, int(labels[row]), p, box)
        assert bound.lower[row] <= true + 1e-9
        if bound.exact[row]:
            assert float(bound.lower[row]) == pytest.approx(true, abs=1e-7)
    return int(bound.exact.sum())


def test_the_oracle_agrees_with_itself_and_with_golden_numbers() -> None:
    network, x, label = golden_network()
    for box in (None, UNIT):
        assert minimal_distance(network, x, 1, math.inf, box) == pytest.approx(0.112308, abs=1e-6)
        assert minimal_margin(network, x, 1, 0.1, math.inf, box) == pytest.approx(0.05, abs=1e-6)
        for p in PS:
            distance = minimal_distance(network, x, 1, p, box)
            assert minimal_margin(network, x, 1, distance, p, box) == pytest.approx(0, abs=1e-6)
            sampled = Ball.around(x, distance * 0.999, p, box).sample(3000)[0]
            assert margins(network(sampled), label.expand(3000)).min() > 0


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_samples_inside_the_radius_keep_the_class(p: float) -> None:
    network = convolutional(3, channels=2, normalise=True)
    points = points_of(network, 3)
    labels = network(points).argmax(1)
    made = certificate(network, points, labels)
    ((free, units),) = made.unboxed([p])
    boxed = made.boxed(p, UNIT, units)
    assert (boxed.lower >= free.lower * (1 - 1e-9)).all()
    generator = torch.Generator().manual_seed(0)
    for bound, box in ((free, None), (boxed, UNIT)):
        if p == 1.5:
            continue
        radius = bound.lower.clamp(max=100)
        sampled = Ball(points, radius, p, box).sample(200, generator)
        own = labels.repeat_interleave(200)
        assert (margins(network(sampled.flatten(0, 1)), own) > -1e-9).all()


def test_lazy_minimum_equals_looking_at_every_unit() -> None:
    network = convolutional(4)
    points = points_of(network, 3).round(decimals=1)
    labels = network(points).argmax(1)
    made = certificate(network, points, labels)
    far = torch.full((3,), math.inf, dtype=torch.float64)
    for p, (_, units) in zip(PS, made.unboxed(PS), strict=True):
        lazy = made._nearest_boxed_unit(p, UNIT, units, far)
        for row in range(3):
            each = [
                made._nearest_boxed_unit(p, UNIT, torch.where(torch.arange(units.shape[1]) == j, units, math.inf), far)[
                    row
                ]
                for j in units[row].argsort()[:40].tolist()
            ]
            assert float(lazy[row]) == pytest.approx(float(min(each)), abs=1e-12)


def test_a_point_on_a_boundary_has_no_guarantee() -> None:
    network, _, _ = golden_network()
    x = torch.tensor([[0.6, 0.35]], dtype=torch.float64)  # first unit: .6 - .7 + .1 = 0
    ((bound, _),) = certificate(network, x, network(x).argmax(1)).unboxed([2.0])
    assert bound.lower == 0
    assert not bound.exact


def test_without_hidden_layers_the_distance_is_exact() -> None:
    network = dense([3, 4])
    points = points_of(network, 3)
    labels = network(points).argmax(1)
    made = certificate(network, points, labels)
    for p, (bound, units) in zip(PS, made.unboxed(PS), strict=True):
        boxed = made.boxed(p, UNIT, units)
        for row, point in enumerate(points):
            assert bound.exact[row]
            assert float(bound.lower[row]) == pytest.approx(minimal_distance(network, point, int(labels[row]), p, None))
            true = minimal_distance(network, point, int(labels[row]), p, UNIT)
            assert bool(boxed.exact[row]) == math.isfinite(true)
            assert float(boxed.lower[row]) == pytest.approx(true)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("exponents", [(-700, 700), (-900, 900), (-565, 565), (500, -500)])
def test_rescaled_networks_are_not_certified_farther(exponents: tuple[int, int], p: float) -> None:
    """Powers of two between the layers change no distance; squares and products that vanish must prove nothing."""
    network = dense([3, 6, 3], 5)
    points = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        labels = network(points).argmax(1)
    (expected, _) = Certificate.of(Region.of(network, points), points, labels).unboxed([p])[0]
    for layer, exponent in zip(network.layers[::2], exponents, strict=True):
        layer.weight.data *= 2.0**exponent
    network.layers[0].bias.data *= 2.0 ** exponents[0]
    (found, _) = Certificate.of(Region.of(network, points), points, labels).unboxed([p])[0]
    assert (found.lower <= expected.lower * (1 + 1e-9)).all()
