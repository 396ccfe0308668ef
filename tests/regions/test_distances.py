"""Region distances: golden numbers, dense evaluation, finite differences, chunks, zero rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.distances import RegionDistances, region_distances
from robustcli.regions.row_norms import cheapest_split
from tests.nets import convolutional, dense, golden_network
from tests.regions.dense import distances
from tests.regions.test_affine import NETS, points_of

GOLDEN = {
    1.0: ([0.075, 0.425, 0.05, 0.225, 0.039130, 0.1, 0.325], [0.191667, 0.341667]),
    2.0: ([0.067082, 0.380132, 0.035355, 0.218282, 0.036959, 0.08, 0.320578], [0.189059, 0.337018]),
    math.inf: ([0.05, 0.283333, 0.025, 0.18, 0.029032, 0.057143, 0.278571], [0.164286, 0.292857]),
}


@pytest.mark.parametrize("p", GOLDEN)
def test_golden_distances(p: float) -> None:
    """Seeded fault `wrong dual norm`: dividing by ||.||_p fails here."""
    (found,) = region_distances(*golden_network(), [p])
    boundary, decision = (torch.tensor([values], dtype=torch.float64) for values in GOLDEN[p])
    assert torch.allclose(found.boundary, boundary, atol=1e-6)
    assert torch.allclose(found.decision, decision, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("network", NETS)
def test_agrees_with_the_jacobian(network: Network, p: float) -> None:
    points, labels = points_of(network, 3), torch.arange(3) % network.classes
    (found,) = region_distances(network, points, labels, [p])
    boundary, decision = distances(network, points, labels, dual(p))
    assert torch.allclose(found.boundary, boundary, atol=1e-12)
    assert torch.allclose(found.decision, decision, atol=1e-12)


def penalty(found: list[RegionDistances]) -> Tensor:
    """A smooth function of all distances."""
    return torch.stack([(-d.boundary).exp().sum() + d.decision.clamp(max=9).tanh().sum() for d in found]).sum()


def gradients(value: Tensor, network: Network) -> list[Tensor]:
    found = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, network.parameters(), strict=True)]


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("make", [lambda: dense([4, 6, 5, 3], 1), lambda: convolutional(0)])
def test_gradients_agree_with_the_jacobian(make: object, p: float) -> None:
    network: Network = make().requires_grad_(True)  # type: ignore[operator]
    points, labels = points_of(network, 2), torch.tensor([1, 2])
    mine = gradients(penalty(region_distances(network, points, labels, [p])), network)
    dense_form = RegionDistances(*distances(network, points, labels, dual(p)), p)
    for a, b in zip(mine, gradients(penalty([dense_form]), network), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_gradients_agree_with_finite_differences(p: float) -> None:
    network = dense([4, 6, 5, 3], 1).requires_grad_(True)
    points, labels = points_of(network, 3), torch.tensor([0, 1, 2])

    def value() -> Tensor:
        return penalty(region_distances(network, points, labels, [p]))

    step = 1e-6
    for weight, gradient in zip(network.parameters(), gradients(value(), network), strict=True):
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            weight += step * direction
            above = value()
            weight -= 2 * step * direction
            below = value()
            weight += step * direction
        assert (above - below) / (2 * step) == pytest.approx(float((gradient * direction).sum()), abs=1e-6)


@pytest.mark.parametrize(
    "network", [dense([2, 5, 5, 5, 2], 0), convolutional(1, side=9, channels=2), dense([9, 4, 4, 3])]
)
def test_chunks_change_nothing(network: Network) -> None:
    network.requires_grad_(True)
    points, labels = points_of(network, 3), torch.arange(3) % network.classes
    ps = [1.0, 2.0, math.inf]
    whole = region_distances(network, points, labels, ps)
    expected = gradients(penalty(whole), network)
    for memory in (1, 60000):
        pieces = region_distances(network, points, labels, ps, memory=memory)
        for a, b in zip(whole, pieces, strict=True):
            assert torch.allclose(a.boundary, b.boundary, atol=1e-13)
            assert torch.allclose(a.decision, b.decision, atol=1e-13)
        for a, b in zip(expected, gradients(penalty(pieces), network), strict=True):
            assert torch.allclose(a, b, atol=1e-12)
    network.requires_grad_(False)


def test_both_directions_are_tested() -> None:
    assert cheapest_split(dense([2, 5, 5, 5, 2]).blocks[:-1]) == 3
    assert cheapest_split(dense([9, 4, 4, 3]).blocks[:-1]) == 1


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_zero_rows_are_infinitely_far(p: float) -> None:
    """A unit without inputs, units above a dead layer: inf, also at value 0, and gradients without NaN."""
    network = dense([3, 4, 5, 3])
    network.layers[0].weight.data[0] = 0
    network.layers[0].bias.data = torch.tensor([0.0, -50, -50, -50], dtype=torch.float64)
    network.layers[2].bias.data[0] = 0
    network.requires_grad_(True)
    points, labels = points_of(network, 2), torch.tensor([0, 1])
    (found,) = region_distances(network, points, labels, [p])
    assert found.boundary[:, [0, 4, 5, 6, 7, 8]].isposinf().all()
    assert found.decision.isposinf().all()
    assert found.boundary[:, 1:4].isfinite().all()
    value = (1 - found.boundary / 99).clamp(min=0).sum() + (1 - found.decision).clamp(min=0).sum()
    assert all(g.isfinite().all() for g in gradients(value, network))


def test_stabiliser_only_above_the_first_layer() -> None:
    network, x, label = golden_network()
    (exact,) = region_distances(network, x, label, [math.inf])
    (steady,) = region_distances(network, x, label, [math.inf], stabilise=0.6)
    assert torch.equal(exact.boundary[:, :4], steady.boundary[:, :4])
    # rows (1, -2.875), (-2, 1.5), (3, -.5): only the entry -.5 is smaller than .6, and becomes .1
    expected = torch.tensor([0.1125 / 3.875, 0.2 / 3.5, 0.975 / 3.1], dtype=torch.float64)
    assert torch.allclose(steady.boundary[0, 4:], expected)
    # decision rows |(1.5, -.25)|, |(6, -1)|: .25 becomes .85
    assert torch.allclose(steady.decision[0], torch.tensor([0.2875 / 2.35, 2.05 / 7], dtype=torch.float64))
