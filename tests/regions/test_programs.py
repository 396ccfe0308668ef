"""Nearest points of polytopes in l1, l2 and linf, with and without box, against plain linear programs and NNLS."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustcli.regions.halfspaces import Box, halfspace_distance
from robustcli.regions.programs import program
from tests.oracle import nearest_in_polytope

UNIT = (0.0, 1.0)
PS = [1.0, 2.0, math.inf]


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", PS)
def test_multipliers_prove_the_minimum(p: float, box: Box) -> None:
    """Rows in two parts, some of them twice and some turned round (empty polytopes)."""
    rng, reached, empty = np.random.default_rng(1), 0, 0
    for trial in range(40):
        d, count = int(rng.integers(2, 6)), int(rng.integers(2, 10))
        rows, limits = rng.normal(size=(count, d)), 0.3 * rng.normal(size=count)
        if trial % 3 == 0:
            rows[count // 2 :] = (1 if trial % 2 else -1) * rows[: count - count // 2]
        x = np.where(rng.random(d) < 0.3, 0.0, rng.random(d))
        found = program(p, x, box)
        found.add(rows[: count // 2], limits[: count // 2])
        found.solve(math.inf)
        found.add(rows[count // 2 :], limits[count // 2 :])
        move, multipliers = found.solve(math.inf)
        assert (multipliers >= 0).all()
        proved = halfspace_distance(multipliers @ rows, float(multipliers @ limits), x, box, p)
        true = nearest_in_polytope(rows, limits + rows @ x, x, p, box)
        if math.isinf(true):
            empty += 1
            assert proved > 1e5
        else:
            reached += 1
            assert proved == pytest.approx(true, abs=1e-9)
            assert (rows @ move <= limits + 1e-8).all()
            assert box is None or ((x + move >= 0) & (x + move <= 1)).all()
    assert min(reached, empty) > 5


@pytest.mark.parametrize("p", PS)
def test_stops_when_far_enough(p: float) -> None:
    x = np.full(3, 0.5)
    found = program(p, x, None)
    rows, limits = np.eye(3), np.array([-1.0, -1.0, -1.0])
    found.add(rows, limits)
    _, multipliers = found.solve(0.5)
    assert halfspace_distance(multipliers @ rows, float(multipliers @ limits), x, None, p) >= 0.5


def test_any_multipliers_bound_the_distance_from_below() -> None:
    """Weak duality, also in norms that the programs do not solve."""
    rng = np.random.default_rng(2)
    for _ in range(30):
        rows, x = rng.normal(size=(4, 3)), rng.random(3)
        inside = rng.random(3) - x
        limits = rows @ inside + 0.05 * rng.random(4)
        for p in (*PS, 1.5, 4.0):
            w = rng.random(4)
            bound = halfspace_distance(w @ rows, float(w @ limits), x, UNIT, p)
            assert bound <= np.linalg.norm(inside, ord=p) + 1e-12
            assert halfspace_distance(w @ rows, float(w @ limits), x, None, p) <= bound + 1e-12
