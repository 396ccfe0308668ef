"""Both solvers, both formulations and brute force agree; what they stop early on is true; nothing else is believed."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from scipy import sparse

from robustcli.errors import SolverError, UnknownNameError
from robustcli.mip import gurobi, highs
from robustcli.mip.formulations import FORMULATIONS
from robustcli.mip.problem import Problem
from robustcli.mip.solver import SOLVERS, Licence, Solver, candidates
from tests.mip.cases import Case, golden, image, small
from tests.oracle import minimal_margin

AVAILABLE = [name for name, make in SOLVERS.items() if make().licence().usable]
EVERYTHING = {"seconds": 60.0, "stop_below": -math.inf, "stop_above": math.inf}
SIGN = {"seconds": 60.0, "stop_below": -1e-6, "stop_above": 1e-6}


@pytest.fixture(params=AVAILABLE)
def solver(request: pytest.FixtureRequest) -> Solver:
    return SOLVERS[request.param]()


@pytest.mark.parametrize(("eps", "minima"), [(0.1, (0.05, 1.33125)), (0.2, (-0.35625, 0.76875))])
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_golden_minima(solver: Solver, formulation: str, eps: float, minima: tuple[float, float]) -> None:
    """Net G: the true minima of the two margins (notes, section 12)."""
    for position, minimum in enumerate(minima):
        found = solver.minimise(golden(eps).problem(formulation, position), **EVERYTHING)
        assert found.status == "optimal"
        assert found.bound == pytest.approx(minimum, abs=1e-6)


@pytest.mark.parametrize(("eps", "minima"), [(0.1, (-0.203331, 1.199608)), (0.2, (-0.850046, 0.369342))])
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_golden_linear_relaxation(solver: Solver, formulation: str, eps: float, minima: tuple[float, float]) -> None:
    """Net G: the LP optimum over the triangle relaxation, with KW bounds."""
    for position, minimum in enumerate(minima):
        found = solver.minimise(golden(eps).problem(formulation, position).relaxed(), **EVERYTHING)
        assert found.status == "optimal"
        assert found.bound == pytest.approx(minimum, abs=1e-6)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_minimum_equals_enumeration_of_all_patterns(seed: int, box: tuple[float, float] | None) -> None:
    found = small(seed, box=box)
    x, eps = found.ball.center[0], float(found.ball.eps[0])
    truth = minimal_margin(found.network, x, found.label, eps, math.inf, box)
    for solver, formulation in itertools.product(AVAILABLE, FORMULATIONS):
        margins = [
            SOLVERS[solver]().minimise(found.problem(formulation, position), **EVERYTHING)
            for position in range(len(found.targets))
        ]
        assert [margin.status for margin in margins] == ["optimal"] * len(margins)
        assert min(margin.bound for margin in margins) == pytest.approx(truth, abs=2e-7)


@pytest.mark.parametrize("make", [lambda: golden(0.2), lambda: small(1), lambda: small(5, eps=0.4), lambda: image(1)])
def test_dual_below_relaxation_below_mip_below_any_sample(solver: Solver, make) -> None:
    found: Case = make()
    samples = found.ball.sample(200)[0]
    seen = (found.network(samples) @ found.rows.T).amin(0).tolist()
    for position in range(len(found.targets)):
        problem = found.problem("slack", position)
        relaxed = solver.minimise(problem.relaxed(), **EVERYTHING)
        exact = solver.minimise(problem, **EVERYTHING)
        assert found.dual_margins[position] <= relaxed.bound + 1e-7
        assert relaxed.bound <= exact.bound + 1e-7
        assert exact.bound <= seen[position] + 1e-7


@pytest.mark.parametrize("make", [lambda: golden(0.2), lambda: small(2), lambda: small(4), lambda: small(4, eps=0.4)])
def test_early_stop_has_the_sign_of_the_minimum(solver: Solver, make) -> None:
    found: Case = make()
    for position in range(len(found.targets)):
        for formulation in FORMULATIONS:
            problem = found.problem(formulation, position)
            exact, early = solver.minimise(problem, **EVERYTHING), solver.minimise(problem, **SIGN)
            assert early.status in ("above", "below", "optimal")
            assert early.bound <= exact.bound + 1e-6
            if early.status == "above":
                assert exact.bound > 0
            else:
                assert exact.bound < 0
                assert early.x is not None
                assert problem.value(early.x) < -1e-6
                assert problem.violation(early.x) < 1e-6


def test_no_time_is_a_limit(solver: Solver) -> None:
    assert solver.minimise(knapsack(60), **(EVERYTHING | {"seconds": 0.0})).status == "limit"


def knapsack(n: int) -> Problem:
    """A subset-sum problem whose bound is far from its optimum: no solver finishes it before looking at the clock."""
    weights = np.random.default_rng(0).integers(10**6, 10**7, n).astype(float)
    return Problem(
        rows=sparse.csr_array(weights[None, :]),
        row_lower=np.array([weights.sum() / 2 + 0.5]),
        row_upper=np.array([np.inf]),
        lower=np.zeros(n),
        upper=np.ones(n),
        binary=np.ones(n, dtype=bool),
        cost=weights,
    )


def test_infeasible_without_a_cut_is_never_a_proof(solver: Solver) -> None:
    """The set of a ball is never empty, so a solver that calls it so is wrong: fail closed."""
    empty = Problem(
        rows=sparse.csr_array(np.ones((1, 2))),
        row_lower=np.array([5.0]),
        row_upper=np.array([np.inf]),
        lower=np.zeros(2),
        upper=np.ones(2),
        binary=np.array([True, True]),
        cost=np.ones(2),
    )
    assert solver.minimise(empty, **EVERYTHING).status == "error"
    assert solver.minimise(empty.relaxed(), **EVERYTHING).status == "error"


def test_highs_infeasible_or_unbounded_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import highspy

    monkeypatch.setattr(
        highspy.Highs, "getModelStatus", lambda self: highspy.HighsModelStatus.kUnboundedOrInfeasible, raising=False
    )
    assert highs.Highs().minimise(golden(0.1).problem("slack", 0), **SIGN).status == "error"


@pytest.mark.skipif("gurobi" not in AVAILABLE, reason="no Gurobi licence")
@pytest.mark.parametrize("code", ["INF_OR_UNBD", "INFEASIBLE", "NUMERIC", "SUBOPTIMAL", "CUTOFF"])
def test_gurobi_statuses_that_prove_nothing(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    import gurobipy

    class Faked:
        SolCount, NodeCount, ObjBound = 0, 0, 5.0
        Status = getattr(gurobipy.GRB, code)

    found = gurobi._outcome(Faked(), None, [], golden(0.1).problem("slack", 0), -1e-6, 1e-6, 0.0)
    assert (found.status, found.raw) == ("error", code)


def test_a_model_that_is_too_large_names_the_limit() -> None:
    licence = SOLVERS["gurobi"]().licence()
    if licence.kind != "size-limited":
        pytest.skip("no size-limited Gurobi licence")
    with pytest.raises(SolverError, match="too small for this model"):
        gurobi.Gurobi().minimise(knapsack(2001), **SIGN)


def test_unknown_solver_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gurobi'"):
        candidates("gurbi")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Pretend that packages are not installed."""

    def hide(*modules: str) -> None:
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)
        for probe in (gurobi._probe, highs._licence):
            probe.cache_clear()

    yield hide
    monkeypatch.undo()
    for probe in (gurobi._probe, highs._licence):
        probe.cache_clear()


def test_a_missing_solver_asked_for_is_an_error(without) -> None:
    without("gurobipy")
    with pytest.raises(SolverError, match="Gurobi: not installed") as caught:
        candidates("gurobi")
    assert caught.value.exit_code == 4
    assert [found.name for found in candidates("auto")] == ["highs"]


def test_no_solver_at_all_is_an_error(without) -> None:
    without("gurobipy", "highspy")
    with pytest.raises(SolverError, match="HiGHS: not installed"):
        candidates("auto")


def test_an_expired_licence_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    expired = Licence("expired", "License expired 2024-01-01")
    monkeypatch.setattr(gurobi, "_probe", lambda: expired)
    with pytest.raises(SolverError, match="License expired"):
        candidates("gurobi")
    assert [found.name for found in candidates("auto")] == ["highs"]


def test_solvers_are_silent(solver: Solver, capfd: pytest.CaptureFixture[str]) -> None:
    solver.minimise(golden(0.1).problem("slack", 0), **SIGN)
    assert capfd.readouterr() == ("", "")
