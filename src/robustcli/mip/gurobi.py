"""Gurobi, used when the package is installed and its licence allows a model of the size at hand.

The licence inside the pip package solves models of up to 2000 variables and 2000 rows and has an expiry date.
"""

from __future__ import annotations

import time
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from robustcli.errors import SolverError
from robustcli.mip.problem import Problem
from robustcli.mip.solver import FEASIBILITY, GAP, Licence, LicenceKind, Outcome, Status

TOO_LARGE, NO_LICENCE = 10010, 10009
LIMIT = 2000


class Gurobi:
    """The solver `gurobi` (package gurobipy)."""

    name = "gurobi"
    title = "Gurobi"

    def version(self) -> str | None:
        """Version of the installed gurobipy."""
        try:
            return metadata.version("gurobipy")
        except metadata.PackageNotFoundError:
            return None

    def licence(self) -> Licence:
        """What a model of 2001 variables shows: full, size-limited, expired or missing."""
        return _probe()

    def minimise(
        self,
        problem: Problem,
        *,
        seconds: float,
        stop_below: float,
        stop_above: float,
        threads: int = 1,
        seed: int = 0,
    ) -> Outcome:
        """See `Solver.minimise`."""
        import gurobipy

        parameters = {
            "Threads": threads,
            "Seed": seed,
            "TimeLimit": max(seconds, 0.0),
            "FeasibilityTol": FEASIBILITY,
            "OptimalityTol": FEASIBILITY,
            "IntFeasTol": FEASIBILITY,
            "MIPGap": 0.0,
            "MIPGapAbs": GAP,
        }
        if problem.binary.any():
            parameters |= {"BestBdStop": stop_above, "BestObjStop": stop_below}
        with gurobipy.Model(env=_environment()) as model:
            for name, value in parameters.items():
                model.setParam(name, value)
            kinds = np.where(problem.binary, gurobipy.GRB.BINARY, gurobipy.GRB.CONTINUOUS)
            v = model.addMVar(problem.cost.shape, lb=problem.lower, ub=problem.upper, vtype=kinds)
            model.setObjective(problem.cost @ v + problem.constant)
            rows = _add_rows(model, v, problem)
            start = time.perf_counter()
            try:
                model.optimize()
            except gurobipy.GurobiError as error:
                raise _refused(error, problem) from error
            return _outcome(model, v, rows, problem, stop_below, stop_above, time.perf_counter() - start)


def _add_rows(model: Any, v: Any, problem: Problem) -> list[tuple[Any, np.ndarray]]:
    """Rows grouped by sense, so that none needs a range; returns each group with the rows it holds."""
    low, high = problem.row_lower, problem.row_upper
    equal = low == high
    groups = [
        (np.flatnonzero(equal), "=", low),
        (np.flatnonzero(np.isfinite(high) & ~equal), "<", high),
        (np.flatnonzero(np.isfinite(low) & ~equal), ">", low),
    ]
    return [
        (model.addMConstr(problem.rows[index], v, sense, side[index]), index)
        for index, sense, side in groups
        if len(index)
    ]


def _outcome(
    model: Any,
    v: Any,
    rows: list[tuple[Any, np.ndarray]],
    problem: Problem,
    stop_below: float,
    stop_above: float,
    seconds: float,
) -> Outcome:
    import gurobipy

    code = int(model.Status)
    if code == gurobipy.GRB.INTERRUPTED:  # only Ctrl-C ends a solve this way
        raise KeyboardInterrupt
    x = v.X if model.SolCount > 0 else None
    nodes, bound = 0, -np.inf
    if problem.binary.any():
        nodes = int(model.NodeCount)
        bound = _number(model, "ObjBound")
    elif code == gurobipy.GRB.OPTIMAL:
        duals = np.zeros(len(problem.row_lower))
        for group, index in rows:
            duals[index] += group.Pi
        bound = problem.dual_bound(duals)
    status: Status = "error"
    if code == gurobipy.GRB.OPTIMAL:
        status = "above" if bound > stop_above else "optimal"
    elif code == gurobipy.GRB.USER_OBJ_LIMIT and bound > stop_above:
        status = "above"
    elif code == gurobipy.GRB.USER_OBJ_LIMIT and x is not None and problem.value(x) < stop_below:
        status = "below"
    elif code == gurobipy.GRB.TIME_LIMIT:
        status = "limit"
    return Outcome(status, bound, x, nodes, seconds, _status_name(code))


def _number(model: Any, attribute: str) -> float:
    """A finite attribute of the model, -inf when the solve ended before it was known."""
    try:
        value = float(getattr(model, attribute))
    except AttributeError:
        return -np.inf
    return value if abs(value) < 1e99 else -np.inf


def _status_name(code: int) -> str:
    import gurobipy

    names = gurobipy.GRB.Status
    return next((name for name in dir(names) if name.isupper() and getattr(names, name) == code), str(code))


def _refused(error: Exception, problem: Problem) -> SolverError:
    if getattr(error, "errno", None) == TOO_LARGE:
        return SolverError(
            f"Gurobi's licence is too small for this model ({problem.size}; limit {LIMIT} of each)",
            "use --solver auto to let HiGHS take such points, or install a full licence",
        )
    return SolverError(f"Gurobi failed: {error}", "use --solver highs, or see `robust env`")


@cache
def _environment() -> Any:
    """One silent environment for the whole process (Gurobi prints its licence on standard output otherwise)."""
    import gurobipy

    environment = gurobipy.Env(empty=True)
    environment.setParam("OutputFlag", 0)
    environment.start()
    return environment


@cache
def _probe() -> Licence:
    try:
        import gurobipy
    except ImportError:
        return Licence("missing", "not installed; pip install gurobipy")
    try:
        with gurobipy.Model(env=_environment()) as model:
            model.addMVar(LIMIT + 1)
            model.optimize()
    except gurobipy.GurobiError as error:
        if error.errno == TOO_LARGE:
            limits = f"at most {LIMIT} variables and {LIMIT} rows"
            return Licence("size-limited", f"{limits}, until {_expiry()}", LIMIT, LIMIT)
        kind: LicenceKind = "expired" if "expired" in str(error).lower() else "missing"
        return Licence(kind, str(error).splitlines()[0])
    return Licence("full", f"no size limit, until {_expiry()}")


def _expiry() -> str:
    """The licence's last day, as a model that may be solved reports it."""
    import gurobipy

    with gurobipy.Model(env=_environment()) as model:
        model.optimize()
        day = str(getattr(model, "LicenseExpiration", ""))
    return f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 and day != "99999999" else "further notice"
