"""What every MIP solver offers the verifier, and which one to take.

A solver turns its own status codes into four meanings and fails closed: anything it does not know is an `error`.

    above     proved: no point of the set has an objective <= `stop_above` (a dual bound, or proved infeasible with
              the row `objective <= stop_above`)
    below     stopped early: the incumbent's objective is < `stop_below`
    optimal   solved: bound and incumbent agree up to the gap tolerance
    limit     out of time, nothing decided
    error     everything else, `infeasible or unbounded` and numerical trouble among it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from robustcli.errors import SolverError, UnknownNameError
from robustcli.mip.problem import Problem, Size, Vector

Status = Literal["above", "below", "optimal", "limit", "error"]
LicenceKind = Literal["open", "full", "size-limited", "expired", "missing"]

FEASIBILITY = 1e-9
"""Tolerance on rows, bounds and integrality asked of every solver."""
GAP = 1e-7
"""Absolute gap at which a solver may call a solution optimal; smaller than the verdict's tolerance."""


@dataclass(frozen=True)
class Outcome:
    """What a solver says about one problem.

    Args:
        status: see the module's table.
        bound: proved lower bound on the minimum (-inf when none is known).
        x: the incumbent, [n], or None.
        nodes: branch-and-bound nodes.
        seconds: time inside the solver.
        raw: the solver's own words.
    """

    status: Status
    bound: float
    x: Vector | None
    nodes: int
    seconds: float
    raw: str


@dataclass(frozen=True)
class Licence:
    """What the installed solver may solve."""

    kind: LicenceKind
    text: str
    variables: int | None = None
    rows: int | None = None

    @property
    def usable(self) -> bool:
        """Whether it solves anything at all."""
        return self.kind in ("open", "full", "size-limited")

    def allows(self, size: Size) -> bool:
        """Whether a model of this size may be solved."""
        wide = self.variables is not None and size.variables > self.variables
        long = self.rows is not None and size.rows > self.rows
        return self.usable and not wide and not long


class Solver(Protocol):
    """One MIP solver behind the common interface."""

    name: str
    title: str

    def version(self) -> str | None:
        """Version, or None when it is not installed."""

    def licence(self) -> Licence:
        """The licence found (probed once)."""

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
        """Minimise, stopping as soon as the sign is settled.

        Args:
            problem: bounded in every variable.
            seconds: time limit.
            stop_below: stop when an incumbent's objective is below this.
            stop_above: stop when the minimum is proved to lie above this.
            threads: of the solver.
            seed: of its random choices.
        """


def _gurobi() -> Solver:
    from robustcli.mip.gurobi import Gurobi

    return Gurobi()


def _highs() -> Solver:
    from robustcli.mip.highs import Highs

    return Highs()


SOLVERS: dict[str, Callable[[], Solver]] = {"gurobi": _gurobi, "highs": _highs}
"""Solvers by name, the preferred one first."""


def candidates(preference: str = "auto") -> list[Solver]:
    """The usable solvers in order of preference.

    Args:
        preference: `auto`, or the name of one solver.
    Raises:
        UnknownNameError: for any other name.
        SolverError: when the one asked for, or every one, is missing or without a valid licence.
    """
    if preference != "auto" and preference not in SOLVERS:
        raise UnknownNameError("solver", preference, ["auto", *SOLVERS])
    names = list(SOLVERS) if preference == "auto" else [preference]
    found = [SOLVERS[name]() for name in names]
    usable = [solver for solver in found if solver.licence().usable]
    if usable:
        return usable
    said = "; ".join(f"{solver.title}: {solver.licence().text}" for solver in found)
    other = "pip install highspy" if preference == "auto" else "use --solver auto, or see `robust env`"
    raise SolverError(f"no usable MIP solver ({said})", other)
