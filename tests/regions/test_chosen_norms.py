"""Norms of chosen rows: values and gradients against the Jacobian, the stabiliser, zero rows, any order of rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.networks.network import Network, margin_rows
from robustcli.regions.affine import Region
from robustcli.regions.chosen_norms import Hyperplanes, chosen_norms
from robustcli.regions.conventions import Convention
from robustcli.regions.distances import ratio
from tests.nets import STACKS, convolutional, dense, golden_network
from tests.regions.dense import distances
from tests.regions.test_affine import points_of

NETS = {
    "golden": golden_network()[0],
    "dense": dense([4, 6, 5, 3], 1),
    "convolutional": convolutional(0),
    "normalised": convolutional(1, side=9, channels=2, normalise=True),
    **STACKS,
}


def some(network: Network, points: Tensor, labels: Tensor, share: float = 0.5) -> tuple[Hyperplanes, Tensor, Tensor]:
    """About a share of all hyperplanes in a random order, with their places in [B, N] and [B, K-1]."""
    generator = torch.Generator().manual_seed(0)
    units = (torch.rand(len(points), network.hidden_units, generator=generator) < share).nonzero()
    units = units[torch.randperm(len(units), generator=generator)]
    classes = (torch.rand(len(points), network.classes - 1, generator=generator) < share).nonzero()
    rows, _ = margin_rows(labels, network.classes, torch.float64)
    chosen = Hyperplanes(units[:, 0], units[:, 1], classes[:, 0], rows[classes[:, 0], classes[:, 1]])
    return chosen, units, classes


@pytest.mark.parametrize("q", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("width", [0.0, 0.05])
@pytest.mark.parametrize("name", NETS)
def test_values_and_gradients_agree_with_the_jacobian(name: str, width: float, q: float) -> None:
    network = NETS[name].requires_grad_(True)
    points, labels = points_of(network, 3), torch.arange(3) % network.classes
    region = Region.of(network, points)
    chosen, units, classes = some(network, points, labels)
    ([norms], [decisions]) = chosen_norms(region, chosen, [q], Convention(width))
    boundary, decision = distances(network, points, labels, q, width)
    values = ratio(region.hidden().abs()[chosen.image, chosen.unit], norms)
    margins = ratio(region.margins(labels)[classes[:, 0], classes[:, 1]], decisions)
    expected, margins_expected = boundary[units[:, 0], units[:, 1]], decision[classes[:, 0], classes[:, 1]]
    assert torch.allclose(values, expected, atol=1e-12)
    assert torch.allclose(margins, margins_expected, atol=1e-12)
    found = gradients((-values).exp().sum() + margins.clamp(max=9).tanh().sum(), network)
    wanted = gradients((-expected).exp().sum() + margins_expected.clamp(max=9).tanh().sum(), network)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    network.requires_grad_(False)


def gradients(value: Tensor, network: Network) -> list[Tensor]:
    found = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, network.parameters(), strict=True)]


@pytest.mark.parametrize("q", [1.0, 2.0, math.inf])
def test_zero_rows_have_norm_and_gradient_zero(q: float) -> None:
    network = dense([3, 4, 5, 3])
    network.layers[0].weight.data[0] = 0
    network.layers[0].bias.data = torch.full((4,), -50.0, dtype=torch.float64)
    network.requires_grad_(True)
    points, labels = points_of(network, 2), torch.tensor([0, 1])
    chosen, *_ = some(network, points, labels, share=1.0)
    ([norms], [decisions]) = chosen_norms(Region.of(network, points), chosen, [q])
    dead = (chosen.unit == 0) | (chosen.unit >= 4)
    assert (norms[dead] == 0).all()
    assert (norms[~dead] > 0).all()
    assert (decisions == 0).all()
    assert all(g.isfinite().all() for g in gradients(norms.sum() + decisions.sum(), network))


def test_nothing_chosen() -> None:
    network, x, _ = golden_network()
    none = torch.zeros(0, dtype=torch.long)
    chosen = Hyperplanes(none, none, none, torch.zeros(0, 3, dtype=torch.float64))
    ([norms], [decisions]) = chosen_norms(Region.of(network, x), chosen, [2.0])
    assert norms.shape == decisions.shape == (0,)


def test_stabiliser_only_above_the_first_layer() -> None:
    network, x, label = golden_network()
    rows, _ = margin_rows(label, 3, torch.float64)
    chosen = Hyperplanes(torch.zeros(7, dtype=torch.long), torch.arange(7), torch.zeros(2, dtype=torch.long), rows[0])
    ([exact], _) = chosen_norms(Region.of(network, x), chosen, [1.0])
    ([steady], [decisions]) = chosen_norms(Region.of(network, x), chosen, [1.0], Convention(0.6))
    assert torch.equal(exact[:4], steady[:4])
    # rows (1, -2.875), (-2, 1.5), (3, -.5): only the entry -.5 is smaller than .6, and becomes .1
    assert torch.allclose(steady[4:], torch.tensor([3.875, 3.5, 3.1], dtype=torch.float64))
    # decision rows |(1.5, -.25)|, |(6, -1)|: .25 becomes .85
    assert torch.allclose(decisions, torch.tensor([2.35, 7], dtype=torch.float64))
