"""Box-constrained distances to hyperplanes against linear and nonlinear programming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from robustcli.balls import vector_norm
from robustcli.errors import UsageError
from robustcli.regions.box import box_distance, box_projection, projection
from tests.oracle import nearest_in_polytope

GOLDEN = {1.0: (0.333333, 0.45), 2.0: (0.264906, 0.321455), math.inf: (0.153846, 0.2)}


@pytest.mark.parametrize("p", GOLDEN)
def test_golden(p: float) -> None:
    rows = torch.tensor([3, -1, 2, 0.5], dtype=torch.float64)
    x, value = torch.tensor([0.9, 0.2, 0.5, 0.4], dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    assert float(vector_norm(projection(rows, value, p), p)) == pytest.approx(GOLDEN[p][0], abs=1e-6)
    assert float(box_distance(rows, value, x, (0, 1), p)) == pytest.approx(GOLDEN[p][1], abs=1e-6)


def problem(seed: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(d, generator=generator, dtype=torch.float64)
    rows[torch.rand(d, generator=generator) < 0.2] = 0
    x = torch.rand(d, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(d, generator=generator) < 0.3, x.round(), x)  # on the border, as in images
    reach = (rows.abs() * torch.where(rows > 0, 1 - x, x)).sum()
    return rows, -reach * torch.rand((), generator=generator, dtype=torch.float64) * 1.1, x


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 8), flip=st.booleans())
def test_equals_programming(p: float, seed: int, d: int, flip: bool) -> None:
    rows, value, x = problem(seed, d)
    rows, value = (-rows, -value) if flip else (rows, value)
    found = float(box_distance(rows, value, x, (0, 1), p))
    if float(value) == 0:
        assert found == 0
        return
    toward = rows.numpy() * np.sign(-float(value))
    limit = abs(float(value)) + float(toward @ x.numpy())
    true = nearest_in_polytope(-toward[None], np.array([-limit]), x.numpy(), p, (0.0, 1.0))
    assert found == pytest.approx(true, abs=1e-8)


@pytest.mark.parametrize("p", [1.2, 1.5, 3.0, 7.0])
@pytest.mark.parametrize("seed", range(5))
def test_general_norm_equals_nonlinear_programming(p: float, seed: int) -> None:
    rows, value, x = problem(seed, 5)
    found = box_projection(rows, value, x, (0, 1), p)
    if not found.isfinite().all():
        assert float((rows.abs() * torch.where(rows > 0, 1 - x, x)).sum()) < -float(value)
        return
    hyperplane = LinearConstraint(rows.numpy()[None], -float(value), -float(value))
    bounds = list(zip((-x).tolist(), (1 - x).tolist(), strict=True))
    answer = minimize(
        lambda delta: (np.abs(delta) ** p).sum(),
        found.numpy() * 0.9,
        constraints=[hyperplane],
        bounds=bounds,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert float(vector_norm(found, p)) == pytest.approx(answer.fun ** (1 / p), abs=1e-4)
    assert float(vector_norm(found, p)) <= answer.fun ** (1 / p) + 1e-8


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from([1.0, 1.1, 2.0, 4.0, 60.0, math.inf]))
def test_projection_lies_on_the_hyperplane_and_in_the_box(seed: int, p: float) -> None:
    rows, value, x = problem(seed, 30)
    delta = box_projection(rows, value, x, (0, 1), p)
    free = projection(rows, value, p)
    assert float((rows * free).sum() + value) == pytest.approx(0, abs=1e-9)
    if delta.isfinite().all():
        assert float((rows * delta).sum() + value) == pytest.approx(0, abs=1e-9)
        assert ((x + delta >= -1e-15) & (x + delta <= 1 + 1e-15)).all()
        assert vector_norm(delta, p) >= vector_norm(free, p) - 1e-9
    else:
        assert (rows.abs() * torch.where(rows > 0, 1 - x, x)).sum() < -value


def test_p_too_near_to_one_is_refused() -> None:
    rows, value, x = problem(0, 5)
    with pytest.raises(UsageError, match=r"p = 1\.001"):
        box_projection(rows, value, x, (0, 1), 1.001)


def test_batches_and_special_rows() -> None:
    rows = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]]).double()
    values = torch.tensor([[-1.0, 3.0, 0.0], [5.0, 0.0, -9.0]]).double()
    x = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double().unsqueeze(1)
    for p in (1.0, 1.5, 2.0, math.inf):
        found = box_distance(rows, values, x, (0, 1), p)
        assert found[0, 1].isposinf()
        assert found[1, 0].isposinf()
        assert found[1, 2].isposinf()
        assert found[0, 2] == 0
        assert found[1, 1] == 0
        assert torch.equal(found[0, 0], box_distance(rows[0, 0], values[0, 0], x[0, 0], (0, 1), p))
