"""The regulariser of Shi et al.: golden numbers, what it is blind to, true gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.types import Bounds
from robustcli.networks.architectures import build
from robustcli.networks.initialisation import initialise
from robustcli.norms import NORMS, exponent
from robustcli.training.interval_pass import bounds
from robustcli.training.width import imbalance, input_radius, radius, ratio, widening
from tests.nets import convolutional, dense, golden_network


def layers_of(network: torch.nn.Module, ball: Ball) -> list[Bounds]:
    return bounds(network, [ball], torch.eye(network.classes, dtype=torch.float64).expand(ball.size, -1, -1)).layers


def test_golden_widening() -> None:
    network, x, _ = golden_network()
    layers = layers_of(network, Ball.around(x, 0.1, math.inf, None))
    assert [radius(found).item() for found in layers] == pytest.approx([0.225, 0.54375])
    start = input_radius(network.blocks[0], layers[0])
    assert start.item() == pytest.approx(0.1)
    assert [widening([found], start).item() for found in layers] == pytest.approx([0.1111111, 0.6321839], abs=1e-6)
    assert widening(layers, start).item() == pytest.approx(0.3716475, abs=1e-6)
    assert imbalance(layers).item() == 0  # no inactive unit


def hand_made(lower: list[float], upper: list[float]) -> Bounds:
    return Bounds(torch.tensor([lower], dtype=torch.float64), torch.tensor([upper], dtype=torch.float64))


def test_imbalance_by_hand() -> None:
    """Centres 3, 1, -1, 0 with the last unit unstable: sums 4 active against 1 inactive; mean 0.75."""
    found = hand_made([2.5, 0.5, -1.5, -1.0], [3.5, 1.5, -0.5, 1.0])
    active, inactive = (3 - 0.75) ** 2 + (1 - 0.75) ** 2, (-1 - 0.75) ** 2
    expected = (0.5 - 0.25) / 0.5 + max(0.5 - min(active / inactive, inactive / active), 0) / 0.5
    assert imbalance([found]).item() == pytest.approx(expected)
    mirrored = hand_made([-value for value in found.upper[0].tolist()], [-value for value in found.lower[0].tolist()])
    assert imbalance([mirrored]).item() == pytest.approx(expected)


@pytest.mark.parametrize(("first", "second", "expected"), [(2.0, 1.0, 0.5), (1.0, 4.0, 0.25), (0.0, 1.0, 1), (1, 0, 1)])
def test_ratio(first: float, second: float, expected: float) -> None:
    values = torch.tensor([first, second], dtype=torch.float64, requires_grad=True)
    found = ratio(values[0], values[1])
    found.backward()
    assert found.item() == expected
    assert bool(torch.isfinite(values.grad).all())


@pytest.mark.parametrize("norm", NORMS)
def test_the_radius_of_the_input_is_that_of_the_linf_ball_of_equal_effect(norm: str) -> None:
    network = convolutional(normalise=True)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = layers_of(network, Ball.around(x, 0.2, exponent(norm), None))[0]
    start = input_radius(network.blocks[0], first)
    # The normalisation divides by 0.4: pixels of radius r come out of it with radius r / 0.4.
    same = layers_of(network, Ball.around(x, 0.4 * start.item(), math.inf, None))[0]
    assert radius(same).item() == pytest.approx(radius(first).item())
    if norm == "linf":
        assert start.item() == pytest.approx(0.2 / 0.4)


def test_weights_that_keep_the_width_do_so() -> None:
    """Shi's initialisation: mean radii stay within a factor of two over seven layers; the usual one blows them up."""
    radii: dict[str, list[float]] = {}
    for kind in ("shi", "truncated-normal"):
        network = build("7x200", (100,), 10)
        initialise(network, kind, torch.Generator().manual_seed(0))
        x = torch.rand(4, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        radii[kind] = [
            radius(found).item() for found in layers_of(network.double(), Ball.around(x, 0.1, math.inf, None))
        ]
    assert all(0.1 < value < 0.4 for value in radii["shi"])  # the input has no ReLU behind it: twice 0.1 at first
    assert radii["truncated-normal"][-1] > 100 * radii["truncated-normal"][0]


def test_gradients_are_those_of_finite_differences() -> None:
    network = dense([3, 8, 6, 3], seed=4).requires_grad_()
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ball = Ball.around(x, 0.05, math.inf, None)

    def value() -> Tensor:
        layers = layers_of(network, ball)
        return widening(layers, input_radius(network.blocks[0], layers[0])) + imbalance(layers)

    value().backward()
    step, largest = 1e-6, 0.0
    for weight in network.parameters():
        if weight.grad is None:
            continue  # the last layer has no ReLU behind it
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for entry in range(0, flat.numel(), 3):
            before = flat[entry].item()
            flat[entry] = before + step
            above = value().item()
            flat[entry] = before - step
            below = value().item()
            flat[entry] = before
            assert (above - below) / (2 * step) == pytest.approx(gradient[entry].item(), abs=1e-5)
            largest = max(largest, abs(gradient[entry].item()))
    assert largest > 1e-2
