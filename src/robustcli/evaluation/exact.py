"""Exact verification of linf balls, cheap stages first: bounds, a light attack, then a MIP over what is still open."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustcli.attacks.apgd_wide import apgd_wide
from robustcli.attacks.contract import Task
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.settings import WideSettings
from robustcli.attacks.training import evaluating
from robustcli.balls import Ball
from robustcli.bounds.types import Bounds
from robustcli.errors import RobustError, SolverError, UsageError
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.cascade import LIGHT
from robustcli.evaluation.certify import BOUNDS, QUICK
from robustcli.mip.solver import candidates
from robustcli.mip.verify import TOLERANCE, MipOutcome, verify
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import norm_name
from robustcli.recipes.fields import NonNegative, Positive, Strict
from robustcli.results.schema import PointRecord, Verdict
from robustcli.results.witnesses import Witness, store


class Settings(Strict):
    """How to verify."""

    solver: str = Field(
        "auto", description="auto: gurobi where its licence allows the model, else highs; or one by name"
    )
    time_limit: NonNegative = Field(120.0, description="seconds per point, all targets and stages together")
    tolerance: Positive = Field(TOLERANCE, description="a margin counts as proved positive only above this")
    formulation: Literal["auto", "slack", "sub"] = Field("auto", description="how a ReLU is written; auto: by size")
    attack: WideSettings | None = Field(LIGHT, description="attack before the MIP; null: none")
    threads: int = Field(1, ge=1, description="of the solver")
    seed: int = Field(0, ge=0, description="of attack and solver")


@dataclass
class _Stage:
    """What is known about one point so far."""

    index: int
    label: int
    predicted: int
    ball: Ball
    start: float
    targets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    margins: Tensor = field(default_factory=lambda: torch.zeros(0))
    layers: list[Bounds] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


class ExactVerifier:
    """Verifies points of one network.

    Args:
        network: as stored; the attack searches in its precision, everything that counts is float64.
        settings: solver, time limit, attack.
        witnesses: folder for misclassified inputs, or None to keep none.
    Raises:
        UnknownNameError: for an unknown solver.
        SolverError: when no usable solver is found.
    """

    batch_size = 1

    def __init__(self, network: Network, settings: Settings, witnesses: Path | None = None) -> None:
        self.network, self.exact, self.model = network, network.double(), network.weights_hash()
        self.settings, self.witnesses = settings, witnesses
        self.solvers = candidates(settings.solver)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[PointRecord]:
        """One record per point.

        Raises:
            UsageError: for another norm than linf.
            SolverError: when the solver asked for cannot take a model (too large for its licence, say).
        """
        if batch.ball.p != float("inf"):
            raise UsageError(
                f"mip-verify knows the linf ball only, not {norm_name(batch.ball.p)}",
                f"try `robust certify --norm {norm_name(batch.ball.p)}`",
            )
        return [self._point(batch, row) for row in range(len(batch))]

    def _point(self, batch: Batch, row: int) -> PointRecord:
        one = slice(row, row + 1)
        stage = _Stage(
            index=int(batch.indices[row]),
            label=int(batch.labels[row]),
            predicted=int(batch.predicted[row]),
            ball=batch.ball.take(one),
            start=time.monotonic(),
        )
        return self._bounded(stage) or self._attacked(stage) or self._solved(stage)

    def _bounded(self, stage: _Stage) -> PointRecord | None:
        """The best of the quick bounds per target; the hidden bounds, tightened by each, go on to the MIP."""
        labels = torch.tensor([stage.label], device=stage.ball.center.device)
        rows, targets = margin_rows(labels, self.exact.classes, torch.float64)
        stage.margins = torch.full_like(targets[0], -torch.inf, dtype=torch.float64)
        decided = QUICK[0]
        known: list[Bounds] | None = None
        for name in QUICK:
            found = BOUNDS[name](self.exact, stage.ball, rows, known=known)
            known, decided = found.layers, name
            stage.margins = torch.maximum(stage.margins, found.margins[0])
            if bool((stage.margins > 0).all()):
                break
        stage.layers = known or []
        stage.targets = targets[0]
        stage.details["bounds_seconds"] = round(stage.seconds, 4)
        if not bool((stage.margins > 0).all()):
            return None
        return self._record(stage, "robust", decided)

    def _attacked(self, stage: _Stage) -> PointRecord | None:
        """A light attack: a witness ends the search at once."""
        if self.settings.attack is None:
            return None
        begin = time.monotonic()
        seeds = point_seeds(self.settings.seed, torch.tensor([stage.index], device=stage.ball.center.device))
        labels = torch.tensor([stage.label], device=stage.ball.center.device)
        task = Task.of(self.network, stage.ball, labels, seeds, exact=self.exact)
        with evaluating(self.network):
            found = apgd_wide(task, self.settings.attack)
        stage.details["attack_seconds"] = round(time.monotonic() - begin, 4)
        if not bool(found.success[0]):
            return None
        return self._witnessed(stage, found.points[0], float(found.margins[0]), "apgd-wide", float(stage.margins.min()))

    def _solved(self, stage: _Stage) -> PointRecord:
        """The MIP over the open targets, with what is left of the time limit."""
        open_targets = (~(stage.margins > 0)).nonzero().squeeze(1)  # a margin that is no number is open
        closed = stage.margins[stage.margins > 0]
        left = self.settings.time_limit - stage.seconds
        if left <= 0:
            return self._record(stage, "unknown", "mip", reason="time limit before the MIP")
        try:
            outcome = verify(
                self.exact,
                stage.ball,
                stage.label,
                stage.layers,
                stage.targets[open_targets].tolist(),
                stage.margins[open_targets].tolist(),
                self.solvers,
                seconds=left,
                tolerance=self.settings.tolerance,
                formulation=self.settings.formulation,
                threads=self.settings.threads,
                seed=self.settings.seed,
            )
        except (SolverError, UsageError):
            raise
        except RobustError as error:
            return self._record(stage, "unknown", "mip", reason=error.message)
        stage.details |= outcome.details()
        return self._judged(stage, outcome, min([outcome.margin_lower, *closed.tolist()]))

    def _judged(self, stage: _Stage, outcome: MipOutcome, lower: float) -> PointRecord:
        if outcome.witness is not None:
            return self._witnessed(stage, outcome.witness.x, outcome.witness.margin, outcome.method, lower)
        return self._record(stage, outcome.verdict, outcome.method, lower, reason=outcome.reason)

    def _witnessed(self, stage: _Stage, x: Tensor, margin: float, method: str, lower: float) -> PointRecord:
        name = None
        if self.witnesses is not None:
            clean = stage.ball.center[0]
            witness = Witness(
                point=clean.cpu().numpy(),
                witness=x.cpu().numpy(),
                index=stage.index,
                label=stage.label,
                margin=margin,
                norm="linf",
                distance=float((x - clean).abs().max()),
                model=self.model,
                found_by=method,
            )
            name = store(self.witnesses, witness)
        return self._record(stage, "vulnerable", method, lower, upper=margin, witness=name)

    def _record(
        self,
        stage: _Stage,
        verdict: Verdict,
        method: str,
        lower: float | None = None,
        *,
        upper: float | None = None,
        witness: str | None = None,
        reason: str | None = None,
    ) -> PointRecord:
        return PointRecord(
            index=stage.index,
            label=stage.label,
            predicted=stage.predicted,
            verdict=verdict,
            method=method,
            margin_lower=float(stage.margins.min()) if lower is None else lower,
            margin_upper=upper,
            witness=witness,
            reason=reason,
            seconds=stage.seconds,
            details=stage.details,
        )
