"""Boxes whose sides differ from coordinate to coordinate, against enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.attacks.directions import movable
from robustcli.attacks.projection import projector
from robustcli.balls import Ball
from robustcli.boxes import Ends, clipped, converted, covering_radius, longest_side, named, within
from robustcli.errors import UsageError
from robustcli.regions.box import box_projection
from tests import oracle

SHAPE = (2, 2)
LOW = torch.tensor([0.0, -1.0, 0.25, -3.0], dtype=torch.float64)
HIGH = torch.tensor([1.0, 1.0, 0.75, 0.0], dtype=torch.float64)
NORMS = [1.0, 2.0, math.inf]


def balls(p: float, seed: int = 0) -> Ball:
    """Three balls around points of the box, some on its sides."""
    generator = torch.Generator().manual_seed(seed)
    share = (torch.rand(3, 4, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    center = (LOW + share * (HIGH - LOW)).view(3, *SHAPE)
    return Ball.around(center, 0.3 if math.isinf(p) else 0.9, p, (LOW, HIGH))


def constraints(ball: Ball, row: int) -> tuple[Tensor, tuple[tuple[float, ...], ...]]:
    """A point of the batch and the box as enumeration takes them."""
    return ball.center[row].flatten(), (tuple(LOW.tolist()), tuple(HIGH.tolist()))


@pytest.mark.parametrize("p", NORMS)
def test_equal_sides_are_the_box_of_numbers(p: float) -> None:
    numbers = Ball(
        torch.rand(3, *SHAPE, dtype=torch.float64), torch.full((3,), 0.4, dtype=torch.float64), p, (0.0, 1.0)
    )
    sides = Ball(numbers.center, numbers.eps, p, (torch.zeros(4).double(), torch.ones(4).double()))
    rows, points = torch.randn(3, 2, *SHAPE, dtype=torch.float64), torch.randn(3, *SHAPE, dtype=torch.float64)
    for one, two in zip(numbers.room() + numbers.bounding_box(), sides.room() + sides.bounding_box(), strict=True):
        assert bool((one == two).all())
    assert bool((numbers.minimum(rows) == sides.minimum(rows)).all())
    assert bool((numbers.project(points) == sides.project(points)).all())
    assert bool((projector(numbers)(points) == projector(sides)(points)).all())
    assert bool((numbers.contains(points) == sides.contains(points)).all())


@pytest.mark.parametrize("p", NORMS)
def test_minima_are_those_of_enumeration(p: float) -> None:
    ball, none = balls(p), (torch.zeros(0, 4).numpy(), torch.zeros(0).numpy())
    rows = torch.randn(3, 5, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, at = ball.minimum(rows), ball.minimiser(rows)
    for row in range(3):
        x, box = constraints(ball, row)
        assert bool(ball.take(slice(row, row + 1)).contains(at[row, :1], 1e-12))
        for number in range(5):
            w = rows[row, number].flatten()
            truth = oracle.smallest_value(w.numpy(), *none, x.numpy(), float(ball.eps[row]), p, box)  # type: ignore[arg-type]
            assert float(found[row, number]) == pytest.approx(truth, abs=1e-7)
            assert float(w @ at[row, number].flatten()) == pytest.approx(truth, abs=1e-7)


@pytest.mark.parametrize("p", NORMS)
def test_projections_and_samples_stay_inside(p: float) -> None:
    """The slow and the fast projection agree, are inside, and no sample is nearer to what they project."""
    ball = balls(p)
    far = ball.center + 2 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    near, fast = ball.project(far), projector(ball)(far)
    torch.testing.assert_close(fast, near, rtol=1e-6, atol=1e-6)
    samples = ball.sample(300, torch.Generator().manual_seed(3))
    assert bool(ball.contains(near, 1e-12).all())
    for number in range(300):
        assert bool(ball.contains(samples[:, number], 1e-12).all())
    distance = (samples - far.unsqueeze(1)).flatten(2).norm(dim=2).amin(1)
    assert bool(((near - far).flatten(1).norm(dim=1) <= distance + 1e-9).all())


@pytest.mark.parametrize("p", NORMS)
def test_distances_to_hyperplanes(p: float) -> None:
    ball = balls(p)
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    value = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)
    moves = box_projection(w, value, ball.center.flatten(1), (LOW, HIGH), p)
    for row in range(3):
        x, box = constraints(ball, row)
        limit = float(w[row] @ x - value[row])
        truth = oracle.nearest_in_polytope(w[row : row + 1].numpy(), torch.tensor([limit]).numpy(), x.numpy(), p, box)  # type: ignore[arg-type]
        assert float(torch.linalg.vector_norm(moves[row], ord=p)) == pytest.approx(truth, rel=1e-6)


def test_coordinates_at_their_own_ends_do_not_move() -> None:
    """For l1 and l2 before the step, so that others move in their place; for linf the projection puts them back."""
    gradient = torch.tensor([[1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    for p in (1.0, 2.0):
        ball = Ball(LOW.view(1, *SHAPE), torch.ones(1, dtype=torch.float64), p, (LOW, HIGH))
        assert movable(gradient, LOW.unsqueeze(0), ball).tolist() == [[0, -1, 0, 0]]
    ball = Ball(LOW.view(1, *SHAPE), torch.ones(1, dtype=torch.float64), math.inf, (LOW, HIGH))
    stepped = LOW.unsqueeze(0) - 0.5 * movable(gradient, LOW.unsqueeze(0), ball)
    moved = projector(ball)(stepped.view(1, *SHAPE)).flatten(1) - LOW
    assert torch.allclose(moved, torch.tensor([[0, 0.5, 0, 0]], dtype=torch.float64), atol=1e-12)


def test_sizes() -> None:
    box: Ends = (LOW, HIGH)
    assert longest_side(box) == 3
    assert longest_side((0.0, 2.0)) == 2
    assert covering_radius(math.inf, 4, box) == 3
    assert covering_radius(1, 4, box) == pytest.approx(6.5)
    assert covering_radius(2, 4, (0.0, 2.0)) == pytest.approx(4)
    assert covering_radius(2, 4, None) == math.inf
    assert named(box) == "[-3, 1]"
    points = torch.tensor([[0.5, 0, 0.5, -1], [0.5, 0, 0.8, -1]], dtype=torch.float64).view(2, *SHAPE)
    assert within(points, box).tolist() == [True, False]
    assert within(points, box, 0.06).tolist() == [True, True]
    assert clipped(points, box)[1].flatten().tolist() == [0.5, 0, 0.75, -1]
    assert clipped(points, None) is points
    low, high = converted(box, torch.float32) or (None, None)
    assert isinstance(low, Tensor)
    assert isinstance(high, Tensor)
    assert (low.dtype, high.dtype) == (torch.float32, torch.float32)
    assert converted((0.0, 1.0), torch.float32) == (0.0, 1.0)
    with pytest.raises(UsageError, match=r"outside the input box \[-3, 1\]"):
        Ball.around(points, 0.1, 2, box)
