"""Cross-Lipschitz regularisation against its definition: autograd's gradients, and theirs again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.network import Network
from robustcli.recipes.loading import load
from robustcli.recipes.methods import CrossLipschitz as Settings
from robustcli.regions.affine import Region
from robustcli.training.cross_lipschitz import CrossLipschitz, cross_lipschitz
from robustcli.training.objective import Moment
from robustcli.training.randomness import generator
from robustcli.training.registry import objective
from tests.nets import convolutional, dense

MOMENT = Moment(1, 10, 0, generator(0))
NETWORKS = {"dense": lambda: dense([3, 6, 5, 4], seed=4), "convolutional": lambda: convolutional(seed=2)}


def by_definition(network: Network, points: Tensor) -> Tensor:
    """1/K^2 sum over all ordered pairs of classes, with gradients from autograd: [B]."""
    points = points.clone().requires_grad_()
    logits = network(points)
    gradients = [
        torch.autograd.grad(logits[:, k].sum(), points, create_graph=True)[0].flatten(1) for k in range(network.classes)
    ]
    pairs = [(one - other).square().sum(1) for one in gradients for other in gradients]
    return torch.stack(pairs).sum(0) / network.classes**2


def batch(network: Network, count: int = 6) -> tuple[Tensor, Tensor]:
    points = torch.rand(count, *network.input_shape, dtype=torch.float64, generator=generator(3, "points"))
    return points, torch.arange(count) % network.classes


@pytest.mark.parametrize("name", NETWORKS)
def test_value_and_gradients_are_those_of_the_definition(name: str) -> None:
    network = NETWORKS[name]().requires_grad_()
    points, labels = batch(network)
    loss = CrossLipschitz(Settings(name="cross-lipschitz", lmbd=0.7))(network, points, labels, MOMENT)
    expected = F.cross_entropy(network(points), labels) + 0.7 * by_definition(network, points).mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    weights = list(network.parameters())
    # Biases move the penalty only across kinks: the definition does not reach the last ones at all.
    wanted = torch.autograd.grad(expected, weights, allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(torch.autograd.grad(loss.total, weights), wanted, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_by_hand() -> None:
    """f = (2 u, -u, 5 u) with u = [3 x - 1]_+: gradients (6, -3, 15), 2 (9^2 + 9^2 + 18^2) / 9 = 108 where u > 0."""
    network = Network.from_description(
        {
            "name": "by hand",
            "input_shape": [1],
            "layers": [
                {"type": "linear", "in": 1, "out": 1},
                {"type": "relu"},
                {"type": "linear", "in": 1, "out": 3},
            ],
        }
    ).double()
    values = [[[3.0]], [-1.0], [[2.0], [-1.0], [5.0]], [0.0, 4.0, 0.0]]
    with torch.no_grad():
        for weight, value in zip(network.parameters(), values, strict=True):
            weight.copy_(torch.tensor(value))
    points = torch.tensor([[0.5], [0.2]], dtype=torch.float64)
    assert cross_lipschitz(Region.of(network, points)).tolist() == pytest.approx([108.0, 0.0])


def test_what_all_classes_share_does_not_count() -> None:
    network = dense([3, 6, 5, 4], seed=4)
    points, _ = batch(network)
    before = cross_lipschitz(Region.of(network, points))
    last = list(network.parameters())[-2]
    with torch.no_grad():
        last += torch.rand(last.shape[1], dtype=torch.float64, generator=generator(5, "shift"))
    assert torch.allclose(cross_lipschitz(Region.of(network, points)), before, rtol=1e-12)
    with torch.no_grad():
        last *= 3
    assert torch.allclose(cross_lipschitz(Region.of(network, points)), 9 * before, rtol=1e-12)


def test_without_weight_it_is_cross_entropy() -> None:
    network = dense([3, 6, 5, 4], seed=4)
    points, labels = batch(network)
    loss = CrossLipschitz(Settings(name="cross-lipschitz", lmbd=0))(network, points, labels, MOMENT)
    assert loss.total.item() == F.cross_entropy(network(points), labels).item()


def test_training_lowers_it() -> None:
    """Gradient descent from the same weights: the regularised network ends with far smaller constants."""
    after = {}
    for lmbd in (0, 1):
        recipe = load("digits-fc-cross-lipschitz", [f"method.lmbd={lmbd}"])
        network = dense([64, 20, 10], seed=1).float().requires_grad_()
        points = torch.rand(40, 64, generator=generator(2, "points"))
        labels = torch.arange(40) % 10
        loss, weights = objective(recipe, network, 0), list(network.parameters())
        for _ in range(25):
            slopes = torch.autograd.grad(loss(network, points, labels, MOMENT).total, weights)
            with torch.no_grad():
                for weight, slope in zip(weights, slopes, strict=True):
                    weight -= 0.05 * slope
        after[lmbd] = cross_lipschitz(Region.of(network, points)).mean().item()
    assert after[1] < 0.5 * after[0]
