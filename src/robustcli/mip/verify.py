"""One point, exactly: minimise f_y - f_t over the ball for every open target t until the sign is settled.

A verdict rests on one of two things only: for every target a dual bound above the tolerance (or `margin <= tolerance`
proved infeasible), or an input that the float64 forward pass misclassifies. Time limits, ties, solver trouble: unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from robustcli.balls import Ball
from robustcli.bounds.types import Bounds
from robustcli.errors import UsageError
from robustcli.mip.encoding import Encoding, encode
from robustcli.mip.formulations import FORMULATIONS, choose, objective, with_binaries
from robustcli.mip.problem import Problem, Size
from robustcli.mip.solver import FEASIBILITY, Outcome, Solver
from robustcli.mip.witness import Witness, replay
from robustcli.networks.network import Network
from robustcli.norms import norm_name
from robustcli.results.schema import Verdict

TOLERANCE = 1e-6
"""A margin is proved positive only above this: it covers solver tolerances (1e-9) amplified by the network.

Where margins are differences of very large numbers it is raised to FEASIBILITY times their size.
"""


@dataclass(frozen=True)
class Target:
    """What became of one other class t: the proved lower bound on f_y - f_t, and how it ended."""

    target: int
    bound: float
    state: str
    raw: str = ""
    nodes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class MipOutcome:
    """The answer for one point.

    Args:
        verdict: robust, vulnerable or unknown.
        method: the solver's name.
        margin_lower: least proved bound over all targets asked for.
        witness: the misclassified input, when vulnerable.
        reason: why unknown.
        targets: one entry per target, in the order they were solved.
        size: of the model of the first target; unstable: undecided neurons per hidden layer.
        solver, version, licence, formulation: what solved it.
        seconds: encoding and solving.
    """

    verdict: Verdict
    method: str
    margin_lower: float
    witness: Witness | None
    reason: str | None
    targets: tuple[Target, ...]
    size: Size
    unstable: tuple[int, ...]
    solver: str
    version: str | None
    licence: str
    formulation: str
    seconds: float
    solver_trusted: bool = field(default=True)

    @property
    def nodes(self) -> int:
        """Branch-and-bound nodes of all targets together."""
        return sum(target.nodes for target in self.targets)

    def details(self) -> dict[str, object]:
        """The JSON object of a record: no MIP solver writes a proof, so `solver_trusted` says whose word it is."""
        return {
            "solver": self.solver,
            "solver_version": self.version,
            "licence": self.licence,
            "solver_trusted": self.solver_trusted,
            "formulation": self.formulation,
            "variables": self.size.variables,
            "rows": self.size.rows,
            "binaries": self.size.binaries,
            "unstable": list(self.unstable),
            "nodes": self.nodes,
            "targets": [
                {
                    "target": t.target,
                    "bound": finite(t.bound),
                    "state": t.state,
                    "status": t.raw,
                    "nodes": t.nodes,
                    "seconds": round(t.seconds, 4),
                }
                for t in self.targets
            ],
        }


def finite(value: float) -> float | None:
    """JSON has no infinities."""
    return value if abs(value) < float("inf") else None


def verify(
    network: Network,
    ball: Ball,
    label: int,
    bounds: Sequence[Bounds],
    targets: Sequence[int],
    margins: Sequence[float],
    solvers: Sequence[Solver],
    *,
    seconds: float = 120.0,
    tolerance: float = TOLERANCE,
    formulation: str = "auto",
    threads: int = 1,
    seed: int = 0,
    binaries: Callable[[Encoding, int], NDArray[np.bool_]] | None = None,
) -> MipOutcome:
    """Decide one point.

    Args:
        network: in float64.
        ball: one linf ball, float64.
        label: the true class.
        bounds: sound hidden bounds, each [1, *shape].
        targets: the classes still open.
        margins: the bound already proved for each of them; the worst is solved first.
        solvers: from `solver.candidates`, the preferred one first.
        seconds: for this point, all targets together.
        tolerance: see TOLERANCE.
        formulation: auto, slack or sub.
        threads, seed: of the solver.
        binaries: which unstable neurons of the encoding, [n], are exact when targets[i] is solved, the others being
            relaxed to their triangles (`partial`); None for all.
    Raises:
        UsageError: for another norm than linf.
    """
    if ball.p != float("inf"):
        raise UsageError(
            f"the MIP verifier knows the linf ball only, not {norm_name(ball.p)}", "use `robust certify` for l1 and l2"
        )
    start = time.perf_counter()
    order = sorted(range(len(targets)), key=lambda i: margins[i])
    rows = torch.zeros(len(order), network.classes, dtype=torch.float64, device=ball.center.device)
    for row, i in zip(rows, order, strict=True):
        row[label], row[targets[i]] = 1.0, -1.0
    encoding = encode(network, ball, bounds, rows).in_units()
    tolerance = max(tolerance, FEASIBILITY * float(encoding.sizes().max(initial=0.0)))
    solver, name = choose(encoding, solvers, formulation)
    problem = FORMULATIONS[name][0](encoding)
    problems = [problem if binaries is None else with_binaries(problem, binaries(encoding, i)) for i in order]
    search = _Search(network, ball, label, encoding, solver, start + seconds, tolerance, threads, seed)
    for position, i in enumerate(order):
        search.target(objective(problems[position], encoding, position), int(targets[i]), float(margins[i]))
        if search.witness is not None:
            break
    proved = {entry.target: entry.bound for entry in search.done}
    lower = min((proved.get(int(t), float(m)) for t, m in zip(targets, margins, strict=True)), default=float("inf"))
    verdict, reason = search.verdict()
    return MipOutcome(
        verdict=verdict,
        method=solver.name,
        margin_lower=lower,
        witness=search.witness,
        reason=reason,
        targets=tuple(search.done),
        size=next(iter(problems), problem).size,
        unstable=encoding.unstable,
        solver=solver.name,
        version=solver.version(),
        licence=solver.licence().kind,
        formulation=name,
        seconds=time.perf_counter() - start,
    )


@dataclass
class _Search:
    """The targets of one point, one after the other, against one deadline."""

    network: Network
    ball: Ball
    label: int
    encoding: Encoding
    solver: Solver
    deadline: float
    tolerance: float
    threads: int
    seed: int
    done: list[Target] = field(default_factory=list)
    witness: Witness | None = None

    def target(self, problem: Problem, target: int, before: float) -> None:
        """Minimise the margin against one target and note what is proved."""
        left = self.deadline - time.perf_counter()
        if left <= 0:
            self.done.append(Target(target, before, "time limit", "not started"))
            return
        outcome = self.minimise(problem, left)
        state = self.judge(outcome)
        bound = outcome.bound if state != "solver error" else before
        if state not in ("robust", "vulnerable"):
            bound = min(bound, self.tolerance)
        self.done.append(Target(target, max(before, bound), state, outcome.raw, outcome.nodes, outcome.seconds))

    def minimise(self, problem: Problem, seconds: float) -> Outcome:
        """By the solver, or in closed form when no neuron is unstable (then only the ranges of the pixels are left)."""
        if problem.size.rows == 0:
            x = problem.corner()
            return Outcome("optimal", problem.value(x), x, 0, 0.0, "no unstable neuron")
        return self.solver.minimise(
            problem,
            seconds=seconds,
            stop_below=-self.tolerance,
            stop_above=self.tolerance,
            threads=self.threads,
            seed=self.seed,
        )

    def judge(self, outcome: Outcome) -> str:
        """`robust`, `vulnerable`, or why neither."""
        if outcome.status in ("above", "optimal") and outcome.bound >= self.tolerance:
            return "robust"
        if outcome.x is not None:
            x = self.encoding.input(outcome.x[: len(self.encoding.pixels)])
            self.witness, _ = replay(self.network, self.ball, self.label, x)
            if self.witness is not None:
                return "vulnerable"
        if outcome.status == "limit":
            return "time limit"
        if outcome.status == "optimal" and outcome.bound >= -self.tolerance:
            return "tie"
        if outcome.status in ("below", "optimal") and outcome.x is not None:
            return "witness rejected"
        return "solver error"

    def verdict(self) -> tuple[Verdict, str | None]:
        """The verdict of the point; where it stays unknown, the reason of the first target that stayed open."""
        if self.witness is not None:
            return "vulnerable", None
        undecided = [entry for entry in self.done if entry.state != "robust"]
        if not undecided:
            return "robust", None
        first = undecided[0]
        return "unknown", REASONS[first.state].format(t=first.target, raw=first.raw, solver=self.solver.title)


REASONS = {
    "time limit": "time limit (target {t})",
    "tie": "tie: the smallest margin is 0 up to the tolerance (target {t})",
    "witness rejected": "witness rejected by the forward pass (target {t})",
    "solver error": "{solver} ended with status {raw} (target {t})",
}
