"""The last stages of 002's cascade: linear programs for the bounds of one hidden layer, then a partial MIP."""

from __future__ import annotations

import math

import torch

from robustcli.errors import UsageError
from robustcli.evaluation.cascade import Context, Findings, State
from robustcli.mip.partial import Chosen, slope_gradients
from robustcli.mip.solver import candidates
from robustcli.mip.triangle import tighten
from robustcli.mip.verify import verify


class Refinement:
    """Bounds of one hidden layer by linear programs over the triangles below it; decides nothing itself."""

    depends: tuple[str, ...] = ("time_limit", "refine_layer")
    alone = builds = True
    share = 0.25

    def applies(self, p: float) -> bool:
        return p == 1 or math.isinf(p)

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """Tighter hidden bounds, as many as the time allows."""
        assert state.layers is not None
        count, wanted = len(state.layers), context.budget.refine_layer
        if wanted is None and count < 2:
            return Findings(reason="the bounds of the first hidden layer are exact")
        layer = 1 if wanted is None else hidden_layer(wanted, count, "--refine-layer")
        before = int(state.layers[layer].unstable.sum())
        found = tighten(context.exact, state.batch.ball, state.layers, seconds=seconds, only=[layer])
        details = {0: {"layer": layer + 1, "unstable": [before, int(found[layer].unstable.sum())]}}
        return Findings(layers=found, details=details)


class PartialMip:
    """The neurons that matter most exact, from some hidden layer on; the others relaxed."""

    depends: tuple[str, ...] = ("time_limit", "exact_from_layer", "max_binary")
    alone = builds = True
    share = 1.0

    def applies(self, p: float) -> bool:
        return math.isinf(p)

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """Proves the open margins, or finds nothing: an incumbent is a point of a relaxed set. Where it happens to be
        misclassified by the network itself, that decides the point."""
        assert state.layers is not None
        batch, places = state.batch, state.open[0].nonzero().squeeze(1)
        count = len(state.layers)
        wanted = context.budget.exact_from_layer
        first = max(count - 1, 0) if wanted is None else hidden_layer(wanted, count, "--exact-from-layer")
        rows = state.rows[:, places]
        gradients = slope_gradients(context.exact, batch.ball, rows, state.layers)
        outcome = verify(
            context.exact,
            batch.ball,
            int(batch.labels[0]),
            state.layers,
            state.targets[0, places].tolist(),
            state.margins[0, places].tolist(),
            candidates("auto"),
            seconds=math.inf if seconds is None else seconds,
            binaries=Chosen(first, context.budget.max_binary, [gradient.abs() for gradient in gradients]),
        )
        fallen = {}
        if outcome.witness is not None:
            fallen[0] = context.fallen(batch, outcome.witness.x, outcome.witness.margin)
        robust = outcome.verdict == "robust"
        rejected = any(target.state == "witness rejected" for target in outcome.targets)
        return Findings(
            margins=torch.where(state.open, outcome.margin_lower, state.margins) if robust else None,
            fallen=fallen,
            details={0: outcome.details() | {"exact_from_layer": first + 1}},
            reason="a relaxed margin is not positive" if rejected else outcome.reason or "",
        )


def hidden_layer(number: int, count: int, option: str) -> int:
    """The 0-based place of hidden layer 1, 2, ...

    Raises:
        UsageError: when the network has no such layer.
    """
    if not 1 <= number <= count:
        raise UsageError(f"{option} {number}: the network has hidden layers 1 to {count}")
    return number - 1
