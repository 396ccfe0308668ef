"""Gradients of the dual where rows are computed again for them: those of explicit matrices and of plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds import dual as dual_module
from robustcli.bounds import pull_gradients
from robustcli.bounds.dual import dual, parallelogram
from robustcli.bounds.interval import first_layer
from robustcli.bounds.pull import Pull
from robustcli.bounds.recomputed import recomputed, walked
from robustcli.bounds.second_layer import SecondLayer
from robustcli.networks.network import Network
from robustcli.networks.phases import spread
from robustcli.networks.rows import Rows
from robustcli.training.randomness import generator
from tests.bounds.cases import BALLS, nets, question
from tests.bounds.references import dense_dual
from tests.nets import convolutional, randomised


def gradients(loss: Tensor, network: Network) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * (other.norm() + 1e-3)


@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_gradients_are_those_of_explicit_matrices(which: int, p: float, eps: float) -> None:
    network = nets()[which].requires_grad_()
    ball, rows = question(network, p, eps, None)
    weight = torch.randn(rows.shape[:2], dtype=torch.float64, generator=generator(1))
    dense = torch.stack([dense_dual(network, ball.center[i], eps, p, rows[i]) for i in range(ball.size)])
    expected = gradients((weight * dense).sum(), network)
    found = gradients((weight * dual(network, ball, rows, outward=False).margins).sum(), network)
    assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("kept", [0, 1 << 22])
@pytest.mark.parametrize("many", [0.0, 1.1])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize(("p", "eps"), BALLS)
def test_gradients_are_those_of_autograd_whatever_is_recomputed(
    monkeypatch: pytest.MonkeyPatch, p: float, eps: float, box: tuple[float, float] | None, many: float, kept: int
) -> None:
    """Of margins and hidden bounds, in the weights and the points; units all at once or one by one."""
    for network in (convolutional(2, side=9, channels=2).requires_grad_(), nets()[0].requires_grad_()):
        ball, rows = question(network, p, eps, box)
        ball = Ball(ball.center.requires_grad_(), ball.eps, p, box)

        def total(network: Network = network, ball: Ball = ball, rows: Tensor = rows) -> list[Tensor]:
            found = dual(network, ball, rows, outward=False)
            sides = [side.sin().sum() for layer in found.layers for side in (layer.lower, layer.upper)]
            sources = [*network.parameters(), ball.center]
            return list(torch.autograd.grad(found.margins.sum() + torch.stack(sides).sum(), sources))

        with monkeypatch.context() as patch:
            patch.setattr(dual_module, "chosen_pull", Pull)
            expected = total()
        monkeypatch.setattr(pull_gradients, "KEPT_NUMBERS", kept)
        monkeypatch.setattr(pull_gradients, "MANY", many)
        assert_close(total(), expected, 1e-10)


def test_single_precision_agrees_with_double() -> None:
    network = convolutional(7, side=12).requires_grad_()
    ball, rows = question(network, math.inf, 0.05, None)
    expected = gradients(dual(network, ball, rows, outward=False).margins.sum(), network)
    single = Network.from_description(network.describe())
    single.load_state_dict(network.state_dict())
    found = gradients(dual(single, ball.to(torch.float32), rows.float(), outward=False).margins.sum(), single)
    assert_close([each.double() for each in found], expected, 1e-5)


@pytest.mark.parametrize(("p", "eps", "box"), [(math.inf, 0.1, (0.0, 1.0)), (2.0, 0.3, None), (1.0, 0.4, None)])
@pytest.mark.parametrize("kernels", [(4, 2, 1, 4, 2, 1), (3, 1, 1, 3, 2, 0), (5, 3, 2, 3, 1, 1)])
def test_second_layer_is_that_of_its_rows(
    kernels: tuple[int, ...], p: float, eps: float, box: tuple[float, float] | None
) -> None:
    k, s, pad, k2, s2, pad2 = kernels
    conv = {"type": "conv2d", "in": 2, "out": 3, "kernel": k, "stride": s, "padding": pad}
    above = {"type": "conv2d", "in": 3, "out": 2, "kernel": k2, "stride": s2, "padding": pad2}
    side = ((11 + 2 * pad - k) // s + 1 + 2 * pad2 - k2) // s2 + 1
    head = [{"type": "flatten"}, {"type": "linear", "in": 2 * side**2, "out": 3}]
    layers = [conv, {"type": "relu"}, above, {"type": "relu"}, *head]
    network = randomised({"input_shape": [2, 11, 11], "layers": layers}, 1)
    ball, _ = question(network, p, eps, box)
    first, second = network.blocks[:2]
    relaxation = parallelogram(first_layer(first, ball))
    whole = SecondLayer.of(network.blocks[:2], ball)
    assert whole is not None
    image, unit = torch.ones(ball.size, second.units).nonzero().unbind(1)
    pull = Pull(network)
    pull.relaxations.append(relaxation)
    down, up = pull.radii(Rows.outputs(second, image, unit), slice(None), ball, torch.zeros((), dtype=torch.float64))
    assert torch.equal(down, up)
    torch.testing.assert_close(whole.reaches(relaxation.slope, ball).flatten(), down, atol=1e-12, rtol=1e-12)


def test_second_layers_without_such_a_form_are_left_to_rows() -> None:
    dense, stacked = nets()[0], nets()[4]
    for network, p, box in ((dense, 2.0, None), (stacked, 2.0, None), (convolutional(1), 2.0, (0.0, 1.0))):
        ball, _ = question(network, p, 0.1, box)
        assert SecondLayer.of(network.blocks[:2], ball) is None


def test_only_rows_whose_gradient_counts_are_computed_again() -> None:
    maps = torch.randn(4, 3, dtype=torch.float64, requires_grad=True, generator=generator(1))
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True, generator=generator(2))
    seen: list[list[tuple[int, int]]] = []

    def walk(image: Tensor, number: Tensor, here: list[Tensor]) -> tuple[Tensor, Tensor]:
        seen.append(list(zip(here[0][image, 0].tolist(), number.tolist(), strict=True)))
        product = (weight[number] * here[0][image] ** 2).sum(1)
        return product, product.cos()

    places = torch.ones(4, 5).nonzero()
    down, up = recomputed(lambda _: (walk, 6), places, [maps], [weight], [weight])
    assert len(seen) == 4  # of at most six rows, whole images where they fit
    seen.clear()
    factor = torch.zeros(20, dtype=torch.float64)
    factor[[1, 7, 19]] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    found = torch.autograd.grad((factor * down + factor * up).sum(), [maps, weight])
    assert sum(map(len, seen)) == 3
    down, up = walked(lambda _: (walk, 6), places, [maps])
    expected = torch.autograd.grad((factor * down + factor * up).sum(), [maps, weight])
    assert_close(list(found), list(expected), 1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"), [(4, 2, 1, 8), (5, 2, 2, 9), (3, 1, 1, 7), (2, 3, 0, 8)]
)
@pytest.mark.parametrize("channels", [1, 9])
def test_spread_and_its_gradients_are_those_of_the_transposed_convolution(
    kernel: int, stride: int, padding: int, side: int, channels: int
) -> None:
    out = (side + 2 * padding - kernel) // stride + 1
    spare = side - ((out - 1) * stride - 2 * padding + kernel)
    values = torch.randn(17, 5, out, out, dtype=torch.float64, generator=generator(1)).requires_grad_()
    weight = torch.randn(5, channels, kernel, kernel, dtype=torch.float64, generator=generator(2)).requires_grad_()
    expected = torch.nn.functional.conv_transpose2d(values, weight, None, stride, padding, spare)
    found = spread(values, weight, stride, padding, (side, side))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    factor = torch.randn(expected.shape, dtype=torch.float64, generator=generator(3))
    ours = torch.autograd.grad((factor * found).sum(), [values, weight])
    theirs = torch.autograd.grad((factor * expected).sum(), [values, weight])
    assert_close(list(ours), list(theirs), 1e-12)
