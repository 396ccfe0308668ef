"""The affine form of a region against the network itself and against autograd's Jacobian."""

from __future__ import annotations

import pytest
import torch

from robustcli.networks.network import Network
from robustcli.regions.affine import Region, all_unit_rows, decision_rows, unit_rows
from tests.nets import convolutional, dense, golden_network
from tests.regions.dense import jacobians

NETS = [dense([4, 6, 5, 3], 1), convolutional(0), convolutional(1, side=9, channels=2, classes=5, normalise=True)]


def points_of(network: Network, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *network.input_shape, generator=generator, dtype=torch.float64)


def test_golden_rows() -> None:
    network, x, label = golden_network()
    region = Region.of(network, x)
    second = all_unit_rows(region)[0, 4:]
    assert torch.allclose(second, torch.tensor([[1, -2.875], [-2, 1.5], [3, -0.5]], dtype=torch.float64))
    last = torch.tensor([[1.5, -0.25], [3, -0.5], [-3, 0.5]], dtype=torch.float64)
    assert torch.allclose(decision_rows(region, label)[0], last[1] - last[[0, 2]])


@pytest.mark.parametrize("network", NETS)
def test_rows_are_the_jacobian(network: Network) -> None:
    points = points_of(network, 3)
    labels = torch.arange(3) % network.classes
    region = Region.of(network, points)
    units, decisions = all_unit_rows(region).flatten(2), decision_rows(region, labels).flatten(2)
    for row, point in enumerate(points):
        *hidden, last = jacobians(network, point)
        assert torch.allclose(units[row], torch.cat(hidden), atol=1e-12)
        others = [s for s in range(network.classes) if s != labels[row]]
        assert torch.allclose(decisions[row], last[labels[row]] - last[others], atol=1e-12)


@pytest.mark.parametrize("network", NETS)
def test_units_may_be_chosen_in_any_order(network: Network) -> None:
    region = Region.of(network, points_of(network, 2))
    chosen = torch.randint(0, network.hidden_units, (2, 7), generator=torch.Generator().manual_seed(3))
    expected = torch.stack([rows[index] for rows, index in zip(all_unit_rows(region), chosen, strict=True)])
    assert torch.allclose(unit_rows(region, chosen), expected, atol=1e-13)


def test_pattern_counts_exact_zero_as_off() -> None:
    network = dense([2, 3, 2])
    network.layers[0].weight.data.zero_()
    network.layers[0].bias.data = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    assert Region.of(network, torch.zeros(1, 2, dtype=torch.float64)).masks[0].tolist() == [[0.0, 1.0, 0.0]]
