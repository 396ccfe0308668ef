"""The ball cut with the box: minimum, minimiser, projection and samples against linear and convex programming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from robustcli.balls import Ball
from robustcli.errors import UsageError

NORMS = [1.0, 2.0, math.inf]
BOX = (0.0, 1.0)


def case(p: float, boxed: bool, seed: int, d: int = 5, rows: int = 3) -> tuple[Ball, torch.Tensor]:
    """A ball around two points (some coordinates on the border of the box) and random rows (some entries zero)."""
    generator = torch.Generator().manual_seed(seed)
    center = (torch.rand(2, d, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(*BOX)
    eps = torch.rand(2, generator=generator, dtype=torch.float64) * (0.5 if math.isinf(p) else 1.2) + 0.02
    c = torch.randn(2, rows, d, generator=generator, dtype=torch.float64)
    c = c * (torch.rand(c.shape, generator=generator) > 0.2)
    return Ball(center, eps, p, BOX if boxed else None), c


def lp_minimum(c: np.ndarray, x: np.ndarray, eps: float, p: float, box: tuple[float, float] | None) -> float:
    """min <c, z> over the ball and box by linear programming (p = 1, inf)."""
    d = len(c)
    sides = [(None, None) if box is None else (box[0] - xi, box[1] - xi) for xi in x]
    if math.isinf(p):
        cut = [(max(a if a is not None else -eps, -eps), min(b if b is not None else eps, eps)) for a, b in sides]
        return float(c @ x + linprog(c, bounds=cut).fun)
    # |delta| <= t, sum t <= eps
    eye = np.eye(d)
    upper = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, d)), np.ones((1, d))]])
    bounds = sides + [(0, None)] * d
    answer = linprog(np.r_[c, np.zeros(d)], A_ub=upper, b_ub=np.r_[np.zeros(2 * d), eps], bounds=bounds)
    return float(c @ x + answer.fun)


def convex_minimum(c: np.ndarray, x: np.ndarray, eps: float, box: tuple[float, float] | None) -> float:
    """min <c, z> over the l2 ball and box by SLSQP."""
    sides = None if box is None else [(box[0] - xi, box[1] - xi) for xi in x]
    ball = {"type": "ineq", "fun": lambda v: eps**2 - v @ v, "jac": lambda v: -2 * v}
    options = {"maxiter": 500, "ftol": 1e-14}
    start = -c * 0.1 * eps / max(np.linalg.norm(c), 1e-12)
    answer = minimize(lambda v: c @ v, start, jac=lambda v: c, bounds=sides, constraints=[ball], options=options)
    return float(c @ x + answer.fun)


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("p", NORMS)
def test_minimum_is_the_optimum_of_the_program(p: float, boxed: bool) -> None:
    for seed in range(6):
        ball, rows = case(p, boxed, seed)
        found = ball.minimum(rows)
        for i in range(2):
            for r in range(3):
                c, x, eps = rows[i, r].numpy(), ball.center[i].numpy(), float(ball.eps[i])
                best = convex_minimum(c, x, eps, ball.box) if p == 2 else lp_minimum(c, x, eps, p, ball.box)
                # SLSQP stops a little short of the optimum; the LP does not.
                assert float(found[i, r]) == pytest.approx(best, abs=2e-6 if p == 2 else 1e-9)
                assert float(found[i, r]) <= best + (1e-7 if p == 2 else 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NORMS), st.booleans(), st.integers(0, 10_000), st.integers(1, 12))
def test_minimiser_attains_the_minimum_inside(p: float, boxed: bool, seed: int, d: int) -> None:
    ball, rows = case(p, boxed, seed, d)
    z = ball.minimiser(rows)
    torch.testing.assert_close((rows * z).sum(-1), ball.minimum(rows), rtol=1e-9, atol=1e-9)
    for r in range(rows.shape[1]):
        assert bool(ball.contains(z[:, r], 1e-9).all())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NORMS), st.booleans(), st.integers(0, 10_000))
def test_no_sample_beats_minimum_or_maximum(p: float, boxed: bool, seed: int) -> None:
    ball, rows = case(p, boxed, seed)
    samples = ball.sample(40, torch.Generator().manual_seed(seed))
    for k in range(samples.shape[1]):
        assert bool(ball.contains(samples[:, k], 1e-9).all())
    values = torch.einsum("brd,bkd->brk", rows, samples)
    assert bool((values >= ball.minimum(rows).unsqueeze(-1) - 1e-9).all())
    assert bool((values <= ball.maximum(rows).unsqueeze(-1) + 1e-9).all())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NORMS), st.booleans(), st.integers(0, 10_000), st.floats(0.01, 4.0))
def test_projection_is_the_nearest_point(p: float, boxed: bool, seed: int, spread: float) -> None:
    """z is the projection of v onto a convex set exactly when z is in it and <v - z, w - z> <= 0 for all w in it."""
    ball, rows = case(p, boxed, seed)
    v = ball.center + spread * rows[:, 0]
    z = ball.project(v)
    assert bool(ball.contains(z, 1e-12).all())
    # The largest <v - z, w> over the set is the support function, whose value the programs above vouch for.
    normal = v - z
    slack = ball.maximum(normal.unsqueeze(1)).squeeze(1) - (normal * z).sum(1)
    assert bool((slack <= 1e-8).all())


@pytest.mark.parametrize("p", NORMS)
def test_projection_leaves_inner_points_alone(p: float) -> None:
    ball, rows = case(p, True, 3)
    inside = ball.project(ball.center + 0.001 * rows[:, 0])
    torch.testing.assert_close(ball.project(inside), inside, rtol=0, atol=1e-12)


def test_golden_l1_projection_with_box() -> None:
    center = torch.tensor([[0.9, 0.2, 0.5, 0.4]], dtype=torch.float64)
    ball = Ball.around(center, 0.6, 1.0, BOX)
    v = torch.tensor([[1.6, 0.1, -0.9, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(ball.project(v), torch.tensor([[1.0, 0.2, 0.0, 0.4]], dtype=torch.float64))


def test_the_box_matters_at_its_border() -> None:
    ball = Ball.around(torch.tensor([[0.0, 1.0]], dtype=torch.float64), 0.1, math.inf, BOX)
    rows = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    assert float(ball.minimum(rows)) == pytest.approx(-1.0)
    assert float(Ball(ball.center, ball.eps, math.inf).minimum(rows)) == pytest.approx(-1.2)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_without_a_box_the_reach_is_the_dual_norm(p: float) -> None:
    ball, rows = case(2.0, False, 1)
    ball = Ball(ball.center, ball.eps, p)
    q = math.inf if p == 1 else (1.0 if math.isinf(p) else p / (p - 1))
    reach = (rows * ball.center.unsqueeze(1)).sum(-1) - ball.minimum(rows)
    expected = ball.eps.unsqueeze(1) * torch.linalg.vector_norm(rows, ord=q, dim=-1)
    torch.testing.assert_close(reach, expected)


@pytest.mark.parametrize("p", NORMS)
def test_bounding_box_holds_the_ball(p: float) -> None:
    ball, _ = case(p, True, 5)
    lower, upper = ball.bounding_box()
    samples = ball.sample(50, torch.Generator().manual_seed(0))
    assert bool((samples >= lower.unsqueeze(1) - 1e-12).all())
    assert bool((samples <= upper.unsqueeze(1) + 1e-12).all())


def test_points_outside_the_box_are_refused() -> None:
    with pytest.raises(UsageError, match="outside the input box"):
        Ball.around(torch.tensor([[1.2]]), 0.1, math.inf, BOX)


def test_image_shapes_are_kept() -> None:
    center = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ball = Ball.around(center, 0.5, 2.0, BOX)
    rows = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert ball.minimum(rows).shape == (2, 6)
    assert ball.minimiser(rows).shape == rows.shape
    assert ball.project(center + rows[:, 0]).shape == center.shape
    assert ball.sample(4).shape == (2, 4, 3, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_zero_row_has_a_minimiser_and_no_reach(p: float, dtype: torch.dtype) -> None:
    ball = Ball.around(torch.full((1, 4), 0.5, dtype=dtype), 0.3, p, (0.0, 1.0))
    zero = torch.zeros(1, 2, 4, dtype=dtype)
    assert torch.equal(ball.minimiser(zero), ball.center.unsqueeze(1).expand(1, 2, 4))
    assert (ball.minimum(zero) == 0).all()
