"""The dual bound holds for any multipliers and meets the optimum for the right ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from robustcli.mip.problem import Problem


def random_problem(seed: int, m: int = 4, n: int = 6) -> tuple[Problem, np.ndarray]:
    """A feasible LP and a point of its set."""
    rng = np.random.default_rng(seed)
    rows, inside = rng.normal(size=(m, n)), rng.uniform(size=n)
    at = rows @ inside
    low, high = at - rng.uniform(size=m), at + rng.uniform(size=m)
    low[0], high[0] = at[0], at[0]
    low[1], high[2] = -np.inf, np.inf
    return Problem(
        rows=sparse.csr_array(rows),
        row_lower=low,
        row_upper=high,
        lower=np.zeros(n),
        upper=np.ones(n),
        binary=np.zeros(n, dtype=bool),
        cost=rng.normal(size=n),
        constant=float(rng.normal()),
    ), inside


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 10))
def test_any_multipliers_bound_from_below(seed: int, scale: float) -> None:
    problem, inside = random_problem(seed)
    duals = np.random.default_rng(seed + 1).normal(size=4) * scale
    assert problem.violation(inside) < 1e-12
    assert problem.dual_bound(duals) <= problem.value(inside) + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_optimal_multipliers_reach_the_optimum(seed: int) -> None:
    problem, _ = random_problem(seed)
    rows = problem.rows.toarray()
    up, down = np.isfinite(problem.row_upper), np.isfinite(problem.row_lower)
    solved = linprog(
        problem.cost,
        A_ub=np.vstack([rows[up], -rows[down]]),
        b_ub=np.concatenate([problem.row_upper[up], -problem.row_lower[down]]),
        bounds=(0, 1),
    )
    duals = np.zeros(len(rows))
    duals[up] += solved.ineqlin.marginals[: up.sum()]
    duals[down] -= solved.ineqlin.marginals[up.sum() :]
    assert abs(problem.dual_bound(duals) - (solved.fun + problem.constant)) < 1e-8


def test_relaxing_keeps_everything_but_integrality() -> None:
    problem, inside = random_problem(3)
    whole = Problem(**{**vars(problem), "binary": np.ones(6, dtype=bool)})
    assert whole.size.binaries == 6
    assert whole.violation(inside) > 0.01
    assert whole.relaxed().size.binaries == 0
    assert whole.relaxed().violation(inside) < 1e-12
