"""Two ways to write y = max(z, 0) for unstable neurons, l < z < u, with one binary a each (a = 1: active).

    slack   y - s = z,   y <= u a,   s <= -l (1 - a),   y, s >= 0       3 variables, 3 rows, one of them long
    sub     y >= z,      y <= u a,   y <= z - l (1 - a),   y >= 0       2 variables, 3 rows, two of them long

Both describe the same set (Tjeng et al. 2019, eq. 6); `slack` has half the nonzeros, `sub` fits smaller licences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from robustcli.mip.encoding import Encoding
from robustcli.mip.problem import Problem, Size, Vector
from robustcli.mip.solver import Solver

Formulation = Callable[[Encoding], Problem]


def slack(encoding: Encoding) -> Problem:
    """Variables (pixels, y, s, a); objective: the first margin."""
    form, y, free, off = _parts(encoding)
    eye = sparse.eye_array(len(free))
    none = 0 * eye
    rows = [
        [y - form, -eye, none],
        [y, none, sparse.diags_array(-encoding.upper)],
        [0 * y, eye, sparse.diags_array(-encoding.lower)],
    ]
    low = [encoding.form_constants, free, free]
    high = [encoding.form_constants, off, -encoding.lower]
    return _problem(encoding, rows, low, high, [encoding.upper, -encoding.lower, off + 1])


def sub(encoding: Encoding) -> Problem:
    """Variables (pixels, y, a); objective: the first margin."""
    form, y, free, off = _parts(encoding)
    rows = [
        [y - form, 0 * sparse.eye_array(len(free))],
        [y, sparse.diags_array(-encoding.upper)],
        [y - form, sparse.diags_array(-encoding.lower)],
    ]
    low = [encoding.form_constants, free, free]
    high = [-free, off, encoding.form_constants - encoding.lower]
    return _problem(encoding, rows, low, high, [encoding.upper, off + 1])


FORMULATIONS: dict[str, tuple[Formulation, int]] = {"slack": (slack, 3), "sub": (sub, 2)}
"""Name -> (builder, variables per unstable neuron), the preferred one first."""


def size(encoding: Encoding, name: str) -> Size:
    """Size of the model without building it (nonzeros aside)."""
    pixels, n = len(encoding.pixels), len(encoding.units)
    return Size(pixels + FORMULATIONS[name][1] * n, 3 * n, n, 0)


def choose(encoding: Encoding, solvers: Sequence[Solver], formulation: str = "auto") -> tuple[Solver, str]:
    """The first solver, in order of preference, whose licence allows one of the formulations, and that formulation.

    When none fits, the last solver and the smallest formulation: solving then raises the solver's own SolverError.
    """
    names = list(FORMULATIONS) if formulation == "auto" else [formulation]
    for solver in solvers:
        for name in names:
            if solver.licence().allows(size(encoding, name)):
                return solver, name
    return solvers[-1], names[-1]


def _parts(encoding: Encoding) -> tuple[Any, Any, Vector, Vector]:
    """The forms z and the rows that pick y, both over (pixels, y); and n times -inf and 0."""
    n = len(encoding.units)
    y = sparse.hstack([sparse.csr_array((n, len(encoding.pixels))), sparse.eye_array(n)], format="csr")
    return encoding.forms, y, np.full(n, -np.inf), np.zeros(n)


def _problem(
    encoding: Encoding, blocks: list[list[Any]], low: list[Vector], high: list[Vector], uppers: list[Vector]
) -> Problem:
    """Pixels in their range, everything after them in [0, upper]; the last n variables are binary."""
    pixels, n = len(encoding.pixels), len(encoding.units)
    more = n * len(uppers)
    rows = sparse.csr_array(sparse.block_array(blocks))
    rows.eliminate_zeros()
    problem = Problem(
        rows=rows,
        row_lower=np.concatenate(low),
        row_upper=np.concatenate(high),
        lower=np.concatenate([encoding.pixel_lower, np.zeros(more)]),
        upper=np.concatenate([encoding.pixel_upper, *uppers]),
        binary=np.arange(pixels + more) >= pixels + more - n,
        cost=np.zeros(pixels + more),
    )
    return objective(problem, encoding, 0)


def with_binaries(problem: Problem, keep: NDArray[np.bool_]) -> Problem:
    """The problem with binaries for some of the n neurons only; the others are relaxed to their triangles."""
    binary = np.zeros_like(problem.binary)
    binary[len(binary) - len(keep) :] = keep
    return replace(problem, binary=binary)


def objective(problem: Problem, encoding: Encoding, target: int) -> Problem:
    """The same set with margin number `target` as the objective."""
    cost = np.zeros(len(problem.cost))
    cost[: encoding.margins.shape[1]] = encoding.margins[[target]].toarray()[0]
    return problem.minimising(cost, encoding.margin_constants[target])
