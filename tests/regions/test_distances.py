"""Region distances: golden numbers, dense evaluation, pieces, zero rows."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.distances import region_distances
from tests.nets import STACKS, convolutional, dense, golden_network
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
@pytest.mark.parametrize("network", [*NETS, *STACKS.values()])
def test_agrees_with_the_jacobian(network: Network, p: float) -> None:
    points, labels = points_of(network, 3), torch.arange(3) % network.classes
    (found,) = region_distances(network, points, labels, [p])
    boundary, decision = distances(network, points, labels, dual(p))
    assert torch.allclose(found.boundary, boundary, atol=1e-12)
    assert torch.allclose(found.decision, decision, atol=1e-12)


@pytest.mark.parametrize("network", [dense([2, 5, 5, 5, 2], 0), convolutional(1, side=9, channels=2), *STACKS.values()])
def test_pieces_change_nothing(network: Network) -> None:
    points, labels = points_of(network, 3), torch.arange(3) % network.classes
    ps = [1.0, 2.0, math.inf]
    for a, b in zip(
        region_distances(network, points, labels, ps),
        region_distances(network, points, labels, ps, memory=1),
        strict=True,
    ):
        assert torch.allclose(a.boundary, b.boundary, atol=1e-13)
        assert torch.allclose(a.decision, b.decision, atol=1e-13)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_zero_rows_are_infinitely_far(p: float) -> None:
    """A unit without inputs, units above a dead layer: inf, also at value 0."""
    network = dense([3, 4, 5, 3])
    network.layers[0].weight.data[0] = 0
    network.layers[0].bias.data = torch.tensor([0.0, -50, -50, -50], dtype=torch.float64)
    network.layers[2].bias.data[0] = 0
    points, labels = points_of(network, 2), torch.tensor([0, 1])
    (found,) = region_distances(network, points, labels, [p])
    assert found.boundary[:, [0, 4, 5, 6, 7, 8]].isposinf().all()
    assert found.decision.isposinf().all()
    assert found.boundary[:, 1:4].isfinite().all()
