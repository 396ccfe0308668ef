"""HiGHS, the open solver: minimise the margin under the row `margin <= stop_above`.

The row lets HiGHS prune by infeasibility (its own cutoff option does not act on MIPs), so a margin that is positive
everywhere shows as `infeasible`; `objective_target` ends the search at the first incumbent with a negative margin.

Linear programs that differ in their objective only share one model, which starts from the last optimal basis.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
from scipy import sparse

from robustcli.errors import SolverError
from robustcli.mip.problem import Problem, Vector
from robustcli.mip.solver import FEASIBILITY, GAP, Licence, Outcome, Status


class Highs:
    """The solver `highs` (package highspy, MIT licence, no size limits)."""

    name = "highs"
    title = "HiGHS"

    def version(self) -> str | None:
        """Version of the installed highspy."""
        try:
            return metadata.version("highspy")
        except metadata.PackageNotFoundError:
            return None

    def licence(self) -> Licence:
        """Open and unlimited, when installed."""
        return _licence()

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
        import highspy

        solver = highspy.Highs()
        for option, value in _options(seconds, stop_below, threads, seed, bool(problem.binary.any())).items():
            solver.setOptionValue(option, value)
        solver.passModel(_model(_cut(problem, stop_above)))
        elapsed = _run(solver)
        return _outcome(solver, problem, stop_above, elapsed)


class LinearPrograms:
    """Objectives over one set, minimised one after the other by the simplex method.

    Args:
        problem: the set; binaries are relaxed.
    Raises:
        SolverError: when highspy is not installed.
    """

    def __init__(self, problem: Problem) -> None:
        if not _licence().usable:
            raise SolverError(f"linear programs need HiGHS: {_licence().text}")
        import highspy

        self.columns = np.arange(problem.size.variables, dtype=np.int32)
        self.solver = highspy.Highs()
        options: dict[str, Any] = {"output_flag": False, "threads": 1, "presolve": "off", "simplex_scale_strategy": 0}
        for option, value in options.items():
            self.solver.setOptionValue(option, value)
        self.solver.passModel(_model(problem.relaxed()))

    def minimise(self, cost: Vector, seconds: float) -> tuple[Vector, Vector] | None:
        """The minimiser [n] and the multipliers of the rows [m] (>= 0 where the lower side holds, <= 0 where the upper
        does), both up to the solver's tolerances; None when it does not finish in time."""
        import highspy

        self.solver.changeColsCost(len(self.columns), self.columns, cost)
        self.solver.setOptionValue("time_limit", self.solver.getRunTime() + max(seconds, 0.0))
        _run(self.solver)
        known = highspy.HighsModelStatus
        if self.solver.getModelStatus() not in (known.kOptimal, known.kModelEmpty):  # empty: a constant
            return None
        solution = self.solver.getSolution()
        return np.array(solution.col_value), np.array(solution.row_dual)


def _run(solver: Any) -> float:
    """Run, let Ctrl-C through; the seconds it took."""
    import highspy

    kinds = highspy.cb.HighsCallbackType
    watch = _Watch()
    solver.setCallback(watch, None)
    for kind in (kinds.kCallbackMipInterrupt, kinds.kCallbackSimplexInterrupt):
        solver.startCallback(kind)
    start = time.perf_counter()
    solver.run()
    elapsed = time.perf_counter() - start
    solver.setCallback(None, None)
    if watch.interrupt is not None:
        raise watch.interrupt
    return elapsed


class _Watch:
    """The callback: lets Python see signals during the search, and ends it on Ctrl-C (raised again afterwards)."""

    def __init__(self) -> None:
        self.interrupt: KeyboardInterrupt | None = None

    def __call__(self, kind: Any, message: str, out: Any, into: Any, data: Any) -> None:
        try:
            into.user_interrupt = self.interrupt is not None
        except KeyboardInterrupt as error:
            self.interrupt = error
            into.user_interrupt = True


def _options(seconds: float, stop_below: float, threads: int, seed: int, integer: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "output_flag": False,
        "threads": threads,
        "parallel": "off" if threads == 1 else "on",
        "random_seed": seed,
        "time_limit": max(seconds, 0.0),
        "small_matrix_value": 1e-12,
        "primal_feasibility_tolerance": FEASIBILITY,
        "dual_feasibility_tolerance": FEASIBILITY,
        "mip_feasibility_tolerance": FEASIBILITY,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": GAP,
    }
    if integer:
        options["objective_target"] = stop_below
    return options


def _cut(problem: Problem, stop_above: float) -> Problem:
    """The problem with the row cost . v <= stop_above - constant added."""
    cut = sparse.csr_array(problem.cost[None, :])
    return replace(
        problem,
        rows=sparse.csr_array(sparse.vstack([problem.rows, cut], format="csr")),
        row_lower=np.append(problem.row_lower, -np.inf),
        row_upper=np.append(problem.row_upper, stop_above - problem.constant),
    )


def _model(problem: Problem) -> Any:
    """The HiGHS model."""
    import highspy

    rows = problem.rows
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = (int(side) for side in rows.shape)
    model.col_cost_, model.offset_ = problem.cost, problem.constant
    model.col_lower_, model.col_upper_ = problem.lower, problem.upper
    model.row_lower_, model.row_upper_ = problem.row_lower, problem.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = rows.indptr, rows.indices, rows.data
    if problem.binary.any():
        kinds = highspy.HighsVarType
        model.integrality_ = [kinds.kInteger if flag else kinds.kContinuous for flag in problem.binary]
    return model


def _outcome(solver: Any, problem: Problem, stop_above: float, seconds: float) -> Outcome:
    info, raw = solver.getInfo(), solver.getModelStatus()
    words = solver.modelStatusToString(raw)
    nodes, bound = max(int(info.mip_node_count), 0), -np.inf
    if problem.binary.any() and np.isfinite(info.mip_dual_bound):
        bound = float(info.mip_dual_bound)
    x = None
    if info.primal_solution_status == 2:  # kSolutionStatusFeasible
        x = np.array(solver.getSolution().col_value)
    status: Status = "error"
    if raw.name == "kInfeasible" and np.isfinite(stop_above):  # without the cut nothing can be infeasible
        status, bound, x = "above", stop_above, None
    elif raw.name == "kOptimal" and x is not None:
        status = "optimal"
        if not problem.binary.any():
            bound = problem.dual_bound(np.array(solver.getSolution().row_dual)[:-1])
    elif raw.name == "kObjectiveTarget" and x is not None:
        status = "below"
    elif raw.name == "kTimeLimit":
        status = "limit"
    return Outcome(status, bound, x, nodes, seconds, words)


@cache
def _licence() -> Licence:
    try:
        import highspy  # noqa: F401
    except ImportError:
        return Licence("missing", "not installed; pip install highspy")
    return Licence("open", "open source (MIT), no size limit")
