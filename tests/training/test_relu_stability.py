"""The ReLU-stability loss of Xiao et al.: sums by hand, sound bounds of both kinds, gradients, composition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Network
from robustcli.norms import NORMS, exponent
from robustcli.recipes.methods import Adversarial, Ramp, ReluStability
from robustcli.training.adversarial import AdversarialCrossEntropy
from robustcli.training.objective import Moment
from robustcli.training.randomness import generator
from robustcli.training.relu_stability import BOUNDS, StabilityLoss, instability, matrix_sum
from tests.nets import convolutional, dense, golden_network

ATTACK = Adversarial(name="at", norms=["linf"], fraction=1, steps=2)


def moment(epoch: int = 10) -> Moment:
    return Moment(epoch, 10, 0, generator(0))


def loss(
    eps: float, stability: float, l1: float = 0.0, bounds: str = "interval", ramp: Ramp | None = None
) -> StabilityLoss:
    settings = ReluStability(
        name="relu-stability",
        norm="linf",
        attack=ATTACK,
        ramp=ramp or Ramp(),
        bounds=bounds,
        stability=stability,
        l1=l1,
    )
    return StabilityLoss(settings, {"linf": eps}, (0.0, 1.0))


def test_instability_by_hand() -> None:
    """Products l u of two points with three units in two layers."""
    first = Bounds(torch.tensor([[-1.0, 0.5], [-2.0, 0.0]]), torch.tensor([[2.0, 1.0], [-1.0, 3.0]]))
    second = Bounds(torch.tensor([[-0.5], [1.0]]), torch.tensor([[0.5], [4.0]]))
    sums = [math.tanh(-1) + math.tanh(1.5) + math.tanh(0.75), math.tanh(3) + math.tanh(1) + math.tanh(5)]
    assert float(instability([first, second])) == pytest.approx(-sum(sums) / 2, rel=1e-6)


def test_golden_network_by_hand() -> None:
    """Net G, eps 0.1: the first layer reaches 0.1 |W_1|_1 = .3, .15, .2, .25 around .15, .425, -.05, .45."""
    network, x, _ = golden_network()
    ball = Ball.around(x, 0.1, math.inf, None)
    first, second = BOUNDS["interval"](network, ball)
    assert first.lower.tolist()[0] == pytest.approx([-0.15, 0.275, -0.25, 0.2])
    assert first.upper.tolist()[0] == pytest.approx([0.45, 0.575, 0.15, 0.7])
    # Units 2 and 4 of the first layer are active, and followed down: W_2 A W_1 = (0, -.875) and so on.
    improved = BOUNDS["improved"](network, ball)[1]
    weight = torch.tensor([[1, -1, 0.5, 0.25], [-0.5, 1, 1, -1], [0.75, 0.5, -1, 1]], dtype=torch.float64)
    active = torch.tensor([[0.5, 1], [2, 0.5]], dtype=torch.float64)
    offset, free = torch.tensor([-0.2, -1.0], dtype=torch.float64), torch.tensor([0.45, 0.15], dtype=torch.float64)
    linear = weight[:, [1, 3]] @ active
    middle = linear @ x[0] + weight[:, [1, 3]] @ offset + torch.tensor([0.05, -0.1, 0.2], dtype=torch.float64)
    reach, rest = 0.1 * linear.abs().sum(1), weight[:, [0, 2]] * free
    lower, upper = middle - reach + rest.clamp(max=0).sum(1), middle + reach + rest.clamp(min=0).sum(1)
    for ours, by_hand, plain in ((improved.lower, lower, second.lower), (improved.upper, upper, second.upper)):
        opened = second.unstable[0]
        assert bool(opened.any())
        assert torch.allclose(ours[0][opened], by_hand[opened])
        assert torch.allclose(ours[0][~opened], plain[0][~opened])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("network", [dense([3, 6, 5, 4], 1), convolutional(4)])
def test_improved_bounds_hold_and_are_tighter_where_it_matters(network: Network, norm: str) -> None:
    x = torch.rand(3, *network.input_shape, dtype=torch.float64, generator=generator(1))
    ball = Ball.around(x, 0.1 if norm == "linf" else 0.4, exponent(norm), (0.0, 1.0))
    plain, improved = (BOUNDS[name](network, ball) for name in ("interval", "improved"))
    samples = ball.sample(300, generator(2))
    tighter = 0
    for point in range(3):
        for values, wide, narrow in zip(network.pre_activations(samples[point]), plain, improved, strict=False):
            assert (values >= narrow.lower[point] - 1e-9).all()
            assert (values <= narrow.upper[point] + 1e-9).all()
            down, up = (narrow.lower - wide.lower)[point], (wide.upper - narrow.upper)[point]
            opened = wide.unstable[point]
            assert (down[opened] >= -1e-9).all()
            assert (up[opened] >= -1e-9).all()
            tighter += int((down[opened] > 1e-6).sum())
    assert tighter > 0


def test_a_kernel_counts_at_every_place() -> None:
    network = convolutional(2)
    first, second, third, _ = (layer.weight.abs().sum() for layer in network.layers if hasattr(layer, "weight"))
    assert float(matrix_sum(network)) == pytest.approx(float(16 * first + 4 * second + third))


@pytest.mark.parametrize("network", [dense([3, 6, 5, 4], 1), convolutional(4)])
def test_weight_0_is_adversarial_training(network: Network) -> None:
    network.requires_grad_()
    x = torch.rand(4, *network.input_shape, dtype=torch.float64, generator=generator(1))
    y = torch.tensor([0, 1, 2, 3])
    base = AdversarialCrossEntropy(ATTACK, {"linf": 0.1}, (0.0, 1.0))
    ours, theirs = loss(0.1, 0.0)(network, x, y, moment()).total, base(network, x, y, moment()).total
    assert torch.equal(ours, theirs)
    weights = list(network.parameters())
    for mine, other in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights), strict=True):
        assert torch.equal(mine, other)


def total(network: Network, x: Tensor, y: Tensor, objective: StabilityLoss, epoch: int = 1) -> Tensor:
    return objective(network, x, y, moment(epoch)).total


@pytest.mark.parametrize("bounds", ["interval", "improved"])
@pytest.mark.parametrize("network", [dense([3, 5, 4, 3], 2), convolutional(5, side=5, classes=3)])
def test_gradients_are_those_of_finite_differences(network: Network, bounds: str) -> None:
    """In epoch 1 of a ramp the attack has no room, so that its point stays where it is."""
    network.requires_grad_()
    x = torch.rand(2, *network.input_shape, dtype=torch.float64, generator=generator(3))
    y = torch.tensor([0, 2])
    objective = loss(0.1, 0.3, 0.02, bounds, Ramp(start=1))
    found = torch.autograd.grad(total(network, x, y, objective), list(network.parameters()))
    step = 1e-6
    for weight, gradient in zip(network.parameters(), found, strict=True):
        values, slopes = weight.data.view(-1), gradient.flatten()
        for entry in range(0, len(values), 1 + len(values) // 6):
            before, ends = values[entry].item(), []
            for moved in (before + step, before - step):
                values[entry] = moved
                ends.append(total(network, x, y, objective).item())
            values[entry] = before
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slopes[entry]), abs=1e-5)


def test_the_attack_grows_and_the_bounds_do_not() -> None:
    network, x = dense([3, 6, 5, 4], 1), torch.rand(4, 3, dtype=torch.float64, generator=generator(1))
    y = torch.tensor([0, 1, 2, 3])
    objective = loss(0.2, 1.0, ramp=Ramp(epochs=5))
    early, late = (objective(network, x, y, moment(epoch)).parts for epoch in (1, 10))
    assert float(early["ce"]) == pytest.approx(float(torch.nn.functional.cross_entropy(network(x), y)))
    assert late["ce"] > early["ce"]
    assert torch.equal(early["unstable"], late["unstable"])
