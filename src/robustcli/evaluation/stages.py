"""The stages of `robust certify`, each around one function of `bounds`, `attacks`, `mip` or `branch_and_bound`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from robustcli.attacks.verify import confirm
from robustcli.bounds.types import MarginBounds
from robustcli.branch_and_bound.verify import verify
from robustcli.evaluation.cascade import Context, Fallen, Findings, State
from robustcli.mip.triangle import triangle

ATTACKED = (1.0, 2.0, math.inf)
"""Exponents of the balls in which misclassified inputs can be searched for."""


class Bound:
    """A lower bound on margins.

    Args:
        bound: `bound(network, ball, rows, *, known) -> MarginBounds`, one of `robustcli.bounds`.
        exponents: of the balls it knows; None for any.
    """

    depends: tuple[str, ...] = ()
    alone = builds = False
    share = 1.0

    def __init__(self, bound: Callable[..., MarginBounds], exponents: Sequence[float] | None = None) -> None:
        self.bound, self.exponents = bound, exponents

    def applies(self, p: float) -> bool:
        return self.exponents is None or p in self.exponents

    def options(self, context: Context) -> dict[str, Any]:
        """Further arguments of the bound."""
        return {}

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """Margins of the open targets only; hidden bounds start from those known."""
        places = state.worst()
        rows = state.rows.gather(1, places.unsqueeze(2).expand(-1, -1, state.rows.shape[2]))
        found = self.bound(context.exact, state.batch.ball, rows, known=state.layers, **self.options(context))
        nothing = torch.full_like(state.margins, -math.inf)
        return Findings(nothing.scatter(1, places, found.margins), found.layers)


class Searched(Bound):
    """A bound with free numbers to search for.

    Args:
        argument: the bound's argument that says how hard to search.
        field: where it stands in the budget.
    """

    def __init__(
        self,
        bound: Callable[..., MarginBounds],
        exponents: Sequence[float] | None = None,
        *,
        argument: str = "effort",
        field: str = "search",
    ) -> None:
        super().__init__(bound, exponents)
        self.argument, self.field, self.depends = argument, field, (field,)

    def options(self, context: Context) -> dict[str, Any]:
        return {self.argument: getattr(context.budget, self.field)}


class Attack:
    """Known witnesses, then a light attack."""

    depends: tuple[str, ...] = ("attack", "seed")
    alone = builds = False
    share = 1.0

    def applies(self, p: float) -> bool:
        return p in ATTACKED

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """Misclassified inputs, with what found them."""
        fallen, details = {}, {}
        places = {index: row for row, index in enumerate(state.batch.indices.tolist())}
        for record in context.attacker(state.batch):
            row = places[record.index]
            if record.margin_upper is not None and record.verdict == "vulnerable":
                fallen[row] = Fallen(record.margin_upper, record.witness)
                details[row] = {"found_by": record.method}
            else:
                details[row] = {"smallest_margin": record.details["smallest_margin"]}
        return Findings(fallen=fallen, details=details, reason="attack failed")


class LinearPrograms:
    """The triangle relaxation of one point, and the network where its relaxed margins are smallest."""

    depends: tuple[str, ...] = ("time_limit",)
    alone = builds = True
    share = 0.05  # branch and bound is faster wherever programs are large

    def applies(self, p: float) -> bool:
        return p == 1 or math.isinf(p)

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """Margins of the open targets; a minimiser that the network misclassifies decides the point."""
        if seconds == 0:
            return Findings(reason="time limit before the linear programs")
        assert state.layers is not None
        batch, places = state.batch, state.open[0].nonzero().squeeze(1)
        found = triangle(context.exact, batch.ball, state.rows, state.layers, seconds=seconds, targets=places.tolist())
        details = {0: {"solved": found.solved, "variables": found.size.variables, "rows": found.size.rows}}
        every = batch.take(torch.zeros_like(places))
        judged = confirm(context.exact, every.ball, every.labels, found.minimisers[places])
        if not bool(judged.success.any()):
            return Findings(found.margins.unsqueeze(0), details=details)
        best = int(torch.where(judged.success, judged.margins, torch.inf).argmin())
        fallen = context.fallen(batch, judged.points[best], float(judged.margins[best]), "lp")
        return Findings(found.margins.unsqueeze(0), fallen={0: fallen}, details=details)


class BranchAndBound:
    """Complete verification of one point."""

    depends: tuple[str, ...] = ("time_limit", "max_nodes")
    alone = builds = True
    share = 1.0

    def applies(self, p: float) -> bool:
        return p in ATTACKED

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """Decides the point, unless a limit comes first."""
        if seconds == 0:
            return Findings(reason="time limit before branch and bound")
        assert state.layers is not None
        batch, places = state.batch, state.open[0].nonzero().squeeze(1)
        outcome = verify(
            context.network,
            context.exact,
            batch.ball,
            int(batch.labels[0]),
            state.layers,
            state.targets[0, places].tolist(),
            state.margins[0, places].tolist(),
            seconds=seconds,
            nodes=context.budget.max_nodes,
        )
        fallen = {}
        if outcome.witness is not None and outcome.witness_margin is not None:
            fallen[0] = context.fallen(batch, outcome.witness[0], outcome.witness_margin, "branch-and-bound")
        # Only its verdict closes a point, never a number alone.
        lower = outcome.margin_lower if outcome.verdict == "robust" else min(outcome.margin_lower, 0.0)
        return Findings(
            margins=torch.where(state.open, lower, state.margins),
            proved=frozenset([0] if outcome.verdict == "robust" else []),
            fallen=fallen,
            details={0: outcome.details()},
            reason=outcome.reason or "",
        )
