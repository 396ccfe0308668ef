"""A cascade: stages in turn, cheap ones first, each asked only about what the ones before it left open.

A stage proves margins, finds misclassified inputs, or neither; what it finds is merged here. A point is decided once
the margins against all its targets are proved positive, whichever stages proved them, or once an input is found.
Bounds on hidden layers are handed on: every bound starts from those of the bounds before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from robustcli.attacks.ensembles import Chosen
from robustcli.attacks.settings import WideSettings
from robustcli.bounds.layered import Effort
from robustcli.bounds.types import Bounds
from robustcli.bounds.zonotope import ZonotopeSettings
from robustcli.errors import RobustError, SolverError, UsageError
from robustcli.evaluation import attack
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network, margin_rows
from robustcli.recipes.fields import NonNegative, Strict
from robustcli.results.schema import PointRecord, Verdict
from robustcli.results.witnesses import Place

LIGHT = WideSettings(steps=20, restarts=1, targets=9)
"""An attack that finds most witnesses, an order of magnitude cheaper than `robust attack`."""


class Budget(Strict):
    """How hard the stages try. Each stage says which of these its answers depend on."""

    attack: WideSettings = Field(LIGHT, description="the search for misclassified inputs")
    seed: int = Field(0, ge=0, description="of the attack's random starts")
    search: Effort = Field(Effort(), description="for the slopes of alpha, and the multipliers of ball-offset")
    zonotope: ZonotopeSettings = Field(ZonotopeSettings(), description="for the slopes of zonotopes")
    time_limit: NonNegative | None = Field(None, description="seconds per point, all stages together; null: none")
    max_nodes: int | None = Field(None, ge=1, description="branch-and-bound nodes per point; null: any number")
    refine_layer: int | None = Field(
        None, ge=1, description="hidden layer whose bounds linear programs tighten; null: the second one"
    )
    exact_from_layer: int | None = Field(
        None, ge=1, description="first hidden layer with exact neurons in the partial MIP; null: the last one"
    )
    max_binary: int | None = Field(None, ge=0, description="neurons exact in the partial MIP; null: any number")


@dataclass(frozen=True)
class Context:
    """What every stage works with.

    Args:
        network: as stored; searches run in its precision.
        exact: its float64 copy, which all proofs are about.
        budget: how hard to try.
        witnesses: where misclassified inputs are kept, or None to keep none.
    """

    network: Network
    exact: Network
    budget: Budget
    witnesses: Place | None

    @cached_property
    def model(self) -> str:
        """Hash of the network as stored."""
        return self.network.weights_hash()

    @cached_property
    def attacker(self) -> attack.Attacker:
        """Replays the witnesses kept, then searches."""
        chosen = Chosen(name="apgd-wide", settings=self.budget.attack.model_dump())
        settings = attack.Settings(attacks=[chosen], seed=self.budget.seed)
        return attack.Attacker(self.network, settings, self.witnesses)

    def fallen(self, batch: Batch, x: Tensor, margin: float, found_by: str = "") -> Fallen:
        """A misclassified input of the only ball of a batch, kept; x [*input_shape] float64."""
        return Fallen(margin, batch.keep(self.witnesses, 0, x, margin, self.model, found_by=found_by))


@dataclass
class Log:
    """What happened to one point: worst margin proved by each stage alone, seconds of each stage, anything else."""

    margins: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class State:
    """The points that are still open, with what is proved about them: n points, T = classes - 1 targets each.

    Args:
        batch: the points.
        rows: functionals f_y - f_t of the logits, [n, T, K].
        targets: t, [n, T].
        margins: the best bound proved so far, -inf for none, never NaN or inf, [n, T].
        layers: sound bounds on the hidden layers, [n, *shape] each; None before the first bound.
        logs: one a point.
    """

    batch: Batch
    rows: Tensor
    targets: Tensor
    margins: Tensor
    layers: list[Bounds] | None
    logs: list[Log]

    @classmethod
    def of(cls, batch: Batch, classes: int) -> State:
        """Nothing proved yet."""
        rows, targets = margin_rows(batch.labels, classes, batch.points.dtype)
        margins = torch.full_like(targets, -math.inf, dtype=batch.points.dtype)
        return cls(batch, rows, targets, margins, None, [Log() for _ in range(len(batch))])

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def open(self) -> Tensor:
        """Targets whose margin is not proved positive, [n, T] bool."""
        return ~(self.margins > 0)

    def take(self, index: Tensor) -> State:
        """Some of the points, by their rows."""
        layers = None if self.layers is None else [layer.take(index) for layer in self.layers]
        logs = [self.logs[row] for row in index.tolist()]
        return State(self.batch.take(index), self.rows[index], self.targets[index], self.margins[index], layers, logs)

    def worst(self) -> Tensor:
        """Places of the targets to ask about, [n, W]: as many as the point with most open targets has, worst first."""
        width = int(self.open.sum(1).max())
        return self.margins.argsort(dim=1, stable=True)[:, :width]

    def left(self, limit: float | None) -> float | None:
        """Seconds left to the first point under a limit."""
        return None if limit is None else max(0.0, limit - sum(self.logs[0].seconds.values()))


@dataclass(frozen=True)
class Fallen:
    """A misclassified input: its float64 margin, and its file under witnesses/ if it was kept."""

    margin: float
    witness: str | None


@dataclass(frozen=True)
class Findings:
    """What a stage found out about the points of a state.

    Args:
        margins: proved bounds, [n, T]; -inf or NaN where there is none. None for no bound at all.
        layers: sound hidden bounds, at least as tight as the state's; None for none.
        proved: rows whose margins are all positive although `margins` has no number for it.
        fallen: misclassified inputs, by row.
        details: for the records, by row.
        reason: why what is open now is still open.
    """

    margins: Tensor | None = None
    layers: list[Bounds] | None = None
    proved: frozenset[int] = frozenset()
    fallen: dict[int, Fallen] = field(default_factory=dict)
    details: dict[int, dict[str, Any]] = field(default_factory=dict)
    reason: str = "bound not positive"


class Stage(Protocol):
    """One way of deciding points."""

    depends: tuple[str, ...]
    """The fields of `Budget` that its answers depend on."""
    alone: bool
    """Whether it takes one point at a time."""
    builds: bool
    """Whether it starts from hidden bounds that an earlier stage must have proved."""
    share: float
    """The part of the time left to a point that it may take while other stages follow."""

    def applies(self, p: float) -> bool:
        """Whether it knows the l_p ball."""
        ...

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        """What it finds out about the points of the state; `seconds` limits those that take one point at a time."""
        ...


class Cascade:
    """Runs stages over batches of points.

    Args:
        stages: by name, in order.
        context: what they work with.
        postponed: told about the points that no stage decided, which then get no record: another pass will answer
            them. None: they are unknown.
    """

    def __init__(
        self, stages: dict[str, Stage], context: Context, postponed: Callable[[State], None] | None = None
    ) -> None:
        self.stages, self.context, self.postponed = stages, context, postponed

    def __call__(self, batch: Batch) -> Iterator[PointRecord]:
        """The records of a batch, each as soon as the point is decided."""
        return self._run(State.of(batch, self.context.exact.classes), list(self.stages))

    def _run(self, state: State, names: Sequence[str]) -> Iterator[PointRecord]:
        for place, name in enumerate(names):
            if self.stages[name].alone and len(state) > 1:
                for row in torch.arange(len(state), device=state.margins.device).split(1):
                    yield from self._run(state.take(row), names[place:])
                return
            state.batch.pause()
            state, found = self._step(state, name, last=place + 1 == len(names))
            proved = found.proved.union((~state.open.any(1)).nonzero().flatten().tolist())
            for row in range(len(state)):
                if row in found.fallen:
                    yield record(state, row, "vulnerable", name, found.fallen[row])
                elif row in proved:
                    yield record(state, row, "robust", name)
            left = [row for row in range(len(state)) if row not in proved and row not in found.fallen]
            if not left:
                return
            state = state.take(torch.tensor(left, device=state.margins.device))
        if self.postponed is not None:
            self.postponed(state)
            return
        for row in range(len(state)):
            yield record(state, row, "unknown", names[-1])

    def _step(self, state: State, name: str, last: bool) -> tuple[State, Findings]:
        """The state after one more stage, and what that found."""
        begin, stage = time.monotonic(), self.stages[name]
        left = state.left(self.context.budget.time_limit)
        seconds = left if left is None or last else left * stage.share
        try:
            with torch.no_grad():
                found = stage.run(state, self.context, seconds)
        except (UsageError, SolverError):
            raise
        except RobustError as error:
            found = Findings(reason=error.message)
        margins, layers = state.margins, state.layers if found.layers is None else found.layers
        alone: list[float] = []
        if found.margins is not None:
            sound = torch.where(found.margins.isfinite(), found.margins, -math.inf)
            alone = torch.where(state.open, sound, math.inf).amin(1).tolist()
            margins = torch.where(state.open, torch.maximum(margins, sound), margins)
        seconds = (time.monotonic() - begin) / len(state)
        for row, log in enumerate(state.logs):
            log.seconds[name] = log.seconds.get(name, 0.0) + seconds
            log.reason = found.reason
            if row in found.details:
                log.details[name] = found.details[row]
            if alone:
                log.margins[name] = alone[row] if math.isfinite(alone[row]) else None
        return replace(state, margins=margins, layers=layers), found


def record(state: State, row: int, verdict: Verdict, method: str, fallen: Fallen | None = None) -> PointRecord:
    """The answer for one point of a state."""
    batch, log = state.batch, state.logs[row]
    lower, tightest = state.margins[row].min(0)
    details: dict[str, Any] = {"target": int(state.targets[row, tightest])}
    if state.layers is not None:
        details["unstable"] = unstable(state)[row]
    return PointRecord(
        index=int(batch.indices[row]),
        label=int(batch.labels[row]),
        predicted=int(batch.predicted[row]),
        verdict=verdict,
        method=method,
        margin_lower=float(lower) if bool(lower.isfinite()) else None,
        margin_upper=None if fallen is None else fallen.margin,
        witness=None if fallen is None else fallen.witness,
        reason=log.reason if verdict == "unknown" else None,
        seconds=sum(log.seconds.values()),
        details={**details, "margins": log.margins, "stages": log.seconds, **log.details},
    )


def unstable(state: State) -> list[int]:
    """Undecided neurons of each point, all hidden layers together; 0 before any bound."""
    counts = torch.zeros(len(state), dtype=torch.int64, device=state.margins.device)
    for layer in state.layers or ():
        counts += layer.unstable.flatten(1).sum(1)
    return counts.tolist()
