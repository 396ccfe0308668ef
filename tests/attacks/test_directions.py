"""Steps of each norm: unit length, steepest among all moves of that norm, no NaN at a zero gradient (trap 39)."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.attacks.directions import direction, gaussian, movable
from robustcli.attacks.noise import point_seeds, uniform
from robustcli.balls import Ball, vector_norm
from robustcli.errors import UnknownNameError

NORMS = [1.0, 2.0, math.inf]


@pytest.fixture
def gradient() -> torch.Tensor:
    return torch.randn(6, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("p", NORMS)
def test_the_step_is_the_steepest_of_norm_one(p: float, gradient: torch.Tensor) -> None:
    step = direction(p).step(gradient, torch.full((6, 1), 1e-9, dtype=torch.float64))
    torch.testing.assert_close(vector_norm(step, p), torch.ones(6, dtype=torch.float64))
    unit = Ball(torch.zeros_like(gradient), torch.ones(6, dtype=torch.float64), p)
    torch.testing.assert_close((gradient * step).sum(1), unit.maximum(gradient.unsqueeze(1)).squeeze(1))


@pytest.mark.parametrize("p", NORMS)
def test_a_zero_gradient_gives_no_move(p: float) -> None:
    assert torch.equal(direction(p).step(torch.zeros(2, 5), torch.full((2, 1), 0.4)), torch.zeros(2, 5))


@pytest.mark.parametrize(("share", "moved"), [(0.001, 1), (0.1, 3), (0.5, 15), (1.0, 30)])
def test_l1_moves_a_share_of_the_coordinates(share: float, moved: int, gradient: torch.Tensor) -> None:
    one = direction(1.0).step(gradient, gradient.new_tensor([[share]]))
    many = direction(1.0).step(gradient, gradient.new_full((6, 1), share))
    assert torch.equal(one, many)
    assert (one != 0).sum(1).tolist() == [moved] * 6
    smallest_moved = gradient.abs().masked_fill(one == 0, math.inf).amin(1)
    assert bool((smallest_moved >= gradient.abs().masked_fill(one != 0, 0).amax(1)).all())


@pytest.mark.parametrize("p", NORMS)
def test_starts_have_norm_one(p: float) -> None:
    start = direction(p).start(uniform(point_seeds(0, torch.arange(10)), 1, 200))
    assert bool((vector_norm(start, p) <= 1 + 1e-12).all())
    assert bool((vector_norm(start, p) > 0.9).all())


def test_gaussian_has_mean_zero_and_variance_one() -> None:
    numbers = gaussian(uniform(point_seeds(0, torch.arange(100)), 1, 500))
    assert abs(float(numbers.mean())) < 0.02
    assert float(numbers.var()) == pytest.approx(1, abs=0.02)


def test_coordinates_stuck_at_the_box_are_left_out() -> None:
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    gradient = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    ball = Ball.around(x, 0.1, 1.0, (0.0, 1.0))
    assert movable(gradient, x, ball).tolist() == [[0.0, -1.0, 1.0, 0.0, 1.0]]
    assert torch.equal(movable(gradient, x, Ball(x, ball.eps, 1.0)), gradient)


def test_other_norms_are_refused() -> None:
    with pytest.raises(UnknownNameError):
        direction(3.0)
