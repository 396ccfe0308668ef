"""The attacks' fast projection is the ball's own projection."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcli.attacks.projection import projector
from robustcli.balls import Ball
from robustcli.errors import UnknownNameError

NORMS = [1.0, 2.0, math.inf]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NORMS), st.booleans(), st.integers(0, 10_000), st.floats(0.001, 5.0), st.sampled_from([3, 40, 300])
)
def test_agrees_with_the_ball(p: float, boxed: bool, seed: int, spread: float, d: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    center = (torch.rand(6, d, generator=generator, dtype=torch.float64) * 1.8 - 0.4).clamp(0, 1)
    ball = Ball.around(center, 0.7, p, (0.0, 1.0) if boxed else None)
    points = center + spread * torch.randn(6, d, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(projector(ball)(points), ball.project(points), rtol=0, atol=2e-6)


@pytest.mark.parametrize("p", NORMS)
def test_a_row_never_depends_on_the_others(p: float) -> None:
    """Some of these rows end after a few of Newton's steps, others go on alone."""
    generator = torch.Generator().manual_seed(7)
    center = torch.rand(64, 300, generator=generator).clamp(min=0.4).sub(0.4)
    spread = 10 ** (3 * torch.rand(64, 1, generator=generator) - 2)
    points = center + spread * torch.randn(64, 300, generator=generator)
    ball = Ball.around(center, 0.7, p, (0.0, 1.0))
    together = projector(ball)(points)
    for some in (slice(0, 1), slice(5, 8), slice(20, 64)):
        assert torch.equal(projector(ball.take(some))(points[some]), together[some])


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_hard_rows_come_out_exactly(p: float) -> None:
    """Moves that are long against the box, where Newton's steps alone stop short."""
    generator = torch.Generator().manual_seed(3)
    center = torch.rand(40, 784, generator=generator, dtype=torch.float64)
    for eps in (0.05, 1.0, 8.0):
        ball = Ball.around(center, eps, p, (0.0, 1.0))
        points = center + 10 ** (4 * torch.rand(40, 784, generator=generator, dtype=torch.float64) - 2) * torch.randn(
            40, 784, generator=generator, dtype=torch.float64
        )
        torch.testing.assert_close(projector(ball)(points), ball.project(points), rtol=0, atol=1e-9)


@pytest.mark.parametrize("p", NORMS)
def test_large_and_infinite_radii_leave_only_the_box(p: float) -> None:
    """Also where a coordinate has not moved at all."""
    center = torch.tensor([[0.5, 0.5, 0.5]])
    points = torch.tensor([[0.5, 1.0000001, 0.2]])
    for eps in (1e5, 1e20, math.inf):
        found = projector(Ball(center, torch.tensor([eps]), p, (0.0, 1.0)))(points)
        torch.testing.assert_close(found, torch.tensor([[0.5, 1.0, 0.2]]))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("boxed", [True, False])
def test_float32_stays_inside_up_to_rounding(p: float, boxed: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    center = torch.rand(8, 784, generator=generator)
    ball = Ball.around(center, 2.0 if p == 1 else 0.5, p, (0.0, 1.0) if boxed else None)
    points = center + torch.randn(8, 784, generator=generator)
    assert bool(ball.contains(projector(ball)(points), 1e-5).all())


def test_other_norms_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"l3"):
        projector(Ball.around(torch.zeros(1, 2), 0.1, 3.0, None))
