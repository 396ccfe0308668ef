"""The KW dual: golden numbers, soundness by sampling, equality with a dense reference, what the box is worth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual, parallelogram
from robustcli.bounds.interval import interval
from robustcli.bounds.types import Bounds
from robustcli.networks.network import margin_rows
from tests.bounds.cases import BALLS, BOXES, nets, points
from tests.bounds.references import dense_dual
from tests.nets import convolutional, dense, golden_network

GOLDEN = [
    (math.inf, 0.1, [-0.284459, 1.135379], 0.974689),
    (2.0, 0.12, [-0.263122, 1.065849], 0.972830),
    (1.0, 0.15, [-0.369571, 0.893518], 1.049537),
    (math.inf, 0.2, [-1.103451, 0.207558], None),
]


@pytest.mark.parametrize(("p", "eps", "margins", "loss"), GOLDEN)
def test_golden_margins_and_robust_loss(p: float, eps: float, margins: list[float], loss: float | None) -> None:
    network, x, y = golden_network()
    rows, targets = margin_rows(y, 3, torch.float64)
    found = dual(network, Ball.around(x, eps, p, None), rows).margins[0]
    assert found.tolist() == pytest.approx(margins, abs=1e-6)
    assert targets.tolist() == [[0, 2]]
    if loss is not None:
        bounds = torch.tensor([[found[0], 0.0, found[1]]])
        assert float(torch.nn.functional.cross_entropy(-bounds, y)) == pytest.approx(loss, abs=1e-6)


def test_golden_hidden_bounds() -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    second = dual(network, Ball.around(x, 0.1, math.inf, None), rows).layers[1]
    assert second.lower[0, :2].tolist() == pytest.approx([-0.434375, -0.64375], abs=1e-6)
    assert second.upper[0, :2].tolist() == pytest.approx([0.275, 0.28125], abs=1e-6)
    # The third unit is active either way: its bounds may be looser than the golden [0.503125, 1.41875].
    assert 0 < second.lower[0, 2] <= 0.503125
    assert second.upper[0, 2] >= 1.41875


def test_golden_box() -> None:
    network, _, y = golden_network()
    x = torch.tensor([[0.05, 0.97]], dtype=torch.float64)
    rows, _ = margin_rows(y, 3, torch.float64)
    unboxed = dual(network, Ball.around(x, 0.1, math.inf, None), rows).margins[0]
    boxed = dual(network, Ball.around(x, 0.1, math.inf, (0.0, 1.0)), rows).margins[0]
    assert unboxed.tolist() == pytest.approx([3.1225, 0.92875], abs=1e-6)
    assert boxed.tolist() == pytest.approx([3.13, 0.9325], abs=1e-6)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_samples_inside_the_ball_respect_every_bound(
    which: int, p: float, eps: float, box: tuple[float, float] | None
) -> None:
    network = nets()[which]
    x, y = points(network, 4)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    inside = ball.sample(300, torch.Generator().manual_seed(1))
    values = network.pre_activations(inside.flatten(0, 1))
    logits = values[-1].view(4, 300, -1)
    margins = (logits.unsqueeze(2) * rows.unsqueeze(1)).sum(-1).amin(1)
    for bound in (interval, dual):
        found = bound(network, ball, rows)
        assert (margins >= found.margins).all()
        for value, layer in zip(values, found.layers, strict=False):
            value = value.view(4, 300, *value.shape[1:])
            assert (value.amin(1) >= layer.lower).all()
            assert (value.amax(1) <= layer.upper).all()


@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_equals_the_dense_dual(which: int, p: float, eps: float) -> None:
    network = nets()[which]
    x, y = points(network, 3)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    found = dual(network, Ball.around(x, eps, p, None), rows, outward=False).margins
    for i in range(3):
        assert found[i].tolist() == pytest.approx(dense_dual(network, x[i], eps, p, rows[i]).tolist(), abs=1e-10)


@pytest.mark.parametrize("bound", [interval, dual])
def test_zero_radius_gives_the_forward_pass(bound) -> None:  # type: ignore[no-untyped-def]
    network = convolutional(5)
    x, y = points(network, 3)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    exact = (rows @ network(x).unsqueeze(-1)).squeeze(-1)
    for p in (1.0, 2.0, math.inf):
        found = bound(network, Ball.around(x, 0.0, p, (0.0, 1.0)), rows).margins
        assert (found <= exact).all()
        torch.testing.assert_close(found, exact, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("p", "eps"), BALLS)
def test_box_never_loosens(p: float, eps: float) -> None:
    network = convolutional(6, normalise=True)
    x, y = points(network, 4)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    for bound in (interval, dual):
        boxed = bound(network, Ball.around(x, eps, p, (0.0, 1.0)), rows)
        unboxed = bound(network, Ball.around(x, eps, p, None), rows)
        first = boxed.layers[0].lower - unboxed.layers[0].lower
        assert (first >= -1e-9).all()
        assert first.max() > 1e-3  # a box that is dropped shows here
    assert (boxed.margins >= unboxed.margins - 1e-9).any()


def test_batch_size_does_not_matter() -> None:
    network = convolutional(7)
    x, y = points(network, 6)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    together = dual(network, Ball.around(x, 0.3, 2.0, (0.0, 1.0)), rows).margins
    for i in range(6):
        alone = dual(network, Ball.around(x[i : i + 1], 0.3, 2.0, (0.0, 1.0)), rows[i : i + 1]).margins
        torch.testing.assert_close(alone[0], together[i], atol=1e-9, rtol=0)


def test_gradient_of_the_bound() -> None:
    network = dense([5, 6, 5, 3], 8).requires_grad_(True)
    x, y = points(network, 2)
    rows, _ = margin_rows(y, 3, torch.float64)
    weight = network.layers[0].weight

    def bound(value: Tensor) -> Tensor:
        with torch.no_grad():
            weight.copy_(value)
        return dual(network, Ball.around(x, 0.1, math.inf, None), rows, outward=False).margins.sum()

    start = weight.detach().clone()
    bound(start).backward()
    analytic = weight.grad.clone()
    for i, j in [(0, 0), (2, 3), (5, 1)]:
        step = torch.zeros_like(start)
        step[i, j] = 1e-6
        numeric = (bound(start + step) - bound(start - step)).item() / 2e-6
        assert float(analytic[i, j]) == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_parallelogram_contains_the_relu() -> None:
    lower = torch.tensor([[-1.0, -2.0, 0.5, -3.0, 0.0, -1.0]], dtype=torch.float64)
    upper = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0, 0.0]], dtype=torch.float64)
    relaxation = parallelogram(Bounds(lower, upper))
    for share in torch.linspace(0, 1, 21, dtype=torch.float64):
        z = lower + share * (upper - lower)
        assert (relaxation.slope * z <= z.relu() + 1e-12).all()
        assert (z.relu() <= relaxation.slope * z + relaxation.gap + 1e-12).all()


def test_linear_network_is_exact() -> None:
    network = dense([4, 3], 9)
    x, y = points(network, 2)
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.2, 2.0, (0.0, 1.0))
    pulled = rows @ network.layers[0].weight
    exact = ball.minimum(pulled) + rows @ network.layers[0].bias
    for bound in (interval, dual):
        torch.testing.assert_close(bound(network, ball, rows).margins, exact, atol=1e-9, rtol=0)
