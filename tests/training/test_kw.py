"""The robust loss of 003: golden numbers, an upper bound on the cross-entropy over the ball, true gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.norms import NORMS, exponent
from robustcli.recipes.methods import ConvexPolytope
from robustcli.training.kw import RobustCrossEntropy, robust_logits, scheduled_eps
from robustcli.training.objective import Moment
from robustcli.training.randomness import generator
from tests.nets import convolutional, dense, golden_network

MOMENT = Moment(1, 10, 0, generator(0))


def objective(norm: str, eps: float, boxed: bool = False, projections: int | None = None) -> RobustCrossEntropy:
    settings = ConvexPolytope(name="kw", norm=norm, boxed=boxed, projections=projections)
    return RobustCrossEntropy(settings, eps, (0.0, 1.0) if boxed else None)


@pytest.mark.parametrize(
    ("norm", "eps", "bounds", "loss"),
    [
        ("linf", 0.1, (-0.284459, 1.135379), 0.974689),
        ("l2", 0.12, (-0.263122, 1.065849), 0.972830),
        ("l1", 0.15, (-0.369571, 0.893518), 1.049537),
    ],
)
def test_golden_robust_cross_entropy(norm: str, eps: float, bounds: tuple[float, float], loss: float) -> None:
    network, x, y = golden_network()
    worst = robust_logits(network, Ball.around(x, eps, exponent(norm), None), y)[0]
    assert worst.squeeze(0).tolist() == pytest.approx([-bounds[0], 0.0, -bounds[1]], abs=1e-6)
    total = objective(norm, eps)(network, x, y, MOMENT)
    assert total.total.item() == pytest.approx(loss, abs=1e-6)
    assert total.parts["robust_error"].item() == 1.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_the_loss_bounds_the_cross_entropy_of_every_point_of_the_ball(norm: str, boxed: bool) -> None:
    network = dense([3, 6, 5, 4], seed=5)
    x = torch.rand(4, 3, dtype=torch.float64, generator=generator(1))
    y = network(x).argmax(1)
    ball = Ball.around(x, 0.15, exponent(norm), (0.0, 1.0) if boxed else None)
    worst = F.cross_entropy(robust_logits(network, ball, y)[0], y, reduction="none")
    samples = ball.sample(500, generator(2))
    for point in range(4):
        seen = F.cross_entropy(network(samples[point]), y[point].expand(500), reduction="none")
        assert seen.max() <= worst[point] + 1e-9


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_gradients_are_those_of_finite_differences(norm: str, boxed: bool) -> None:
    network = dense([3, 5, 4, 3], seed=2).requires_grad_()
    x = torch.rand(3, 3, dtype=torch.float64, generator=generator(3))
    y = torch.tensor([0, 1, 2])
    loss = objective(norm, 0.2, boxed)

    def value() -> float:
        return loss(network, x, y, MOMENT).total.item()

    loss(network, x, y, MOMENT).total.backward()
    step = 1e-6
    for weight in network.parameters():
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for entry in range(0, flat.numel(), 3):
            before = flat[entry].item()
            flat[entry] = before + step
            above = value()
            flat[entry] = before - step
            below = value()
            flat[entry] = before
            assert (above - below) / (2 * step) == pytest.approx(gradient[entry].item(), abs=1e-5)


def test_radius_schedule_of_the_scripts() -> None:
    settings = ConvexPolytope(name="kw", norm="linf", start_eps=0.05, ramp_epochs=50)
    radii = {epoch: scheduled_eps(settings, 0.1, epoch) for epoch in (1, 26, 51, 100)}
    assert radii == pytest.approx({1: 0.05, 26: 0.075, 51: 0.1, 100: 0.1})
    constant = ConvexPolytope(name="kw", norm="linf")
    assert scheduled_eps(constant, 0.1, 1) == 0.1


def test_a_tiny_ball_gives_the_clean_cross_entropy() -> None:
    network, x, y = golden_network()
    total = objective("linf", 1e-9)(network, x, y, MOMENT).total.item()
    assert math.isclose(total, F.cross_entropy(network(x), y).item(), abs_tol=1e-7)


def test_projections_are_drawn_by_the_step() -> None:
    """The same step draws the same numbers, another step others; so a training goes on as it would have."""
    network = convolutional(4)
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64, generator=generator(1))  # more than are projected at once
    y = network(x).argmax(1)
    loss = objective("linf", 0.1, projections=3)
    totals = [loss(network, x, y, Moment(1, 10, step, generator(step))).total.item() for step in (0, 0, 1)]
    assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_many_projections_are_the_exact_loss(norm: str) -> None:
    network = convolutional(4).requires_grad_()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=generator(1))
    y = network(x).argmax(1)
    found, expected = (objective(norm, 0.05, projections=k)(network, x, y, MOMENT).total for k in (1000, None))
    assert found.item() == pytest.approx(expected.item(), abs=1e-10)
    ours, theirs = (torch.autograd.grad(total, list(network.parameters())) for total in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_bounds_that_are_no_numbers_count_as_errors() -> None:
    network, x, y = golden_network()
    network.layers[0].weight.data[0, 0] = math.nan
    assert objective("linf", 0.1)(network, x, y, MOMENT).parts["robust_error"].item() == 1.0
