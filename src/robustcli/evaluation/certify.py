"""Certification by bounds: the best of several sound lower bounds on every margin, each safe against rounding."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from pydantic import Field, field_validator
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.bounds.types import MarginBounds
from robustcli.errors import UnknownNameError
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network, margin_rows
from robustcli.recipes.fields import Strict
from robustcli.results.schema import PointRecord

Bound = Callable[[Network, Ball, Tensor], MarginBounds]

BOUNDS: dict[str, Bound] = {"interval": interval, "dual": dual}
"""Every bound by name, cheapest first; one file each in `robustcli.bounds`."""


class Settings(Strict):
    """How to certify."""

    methods: list[str] = Field(default=list(BOUNDS), min_length=1, description="bounds whose best counts, per point")

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: list[str]) -> list[str]:
        for name in methods:
            if name not in BOUNDS:
                raise UnknownNameError("bound", name, BOUNDS)
        return [name for name in BOUNDS if name in methods]


class Certifier:
    """Certifies points of one network.

    Args:
        network: float64.
        settings: which bounds.
    """

    batch_size = 16

    def __init__(self, network: Network, settings: Settings) -> None:
        self.network = network
        self.settings = settings

    def __call__(self, batch: Batch) -> list[PointRecord]:
        begin = time.monotonic()
        rows, targets = margin_rows(batch.labels, self.network.classes, batch.points.dtype)
        worst: dict[str, Tensor] = {}
        best: Tensor | None = None
        unstable: list[int] = []
        with torch.no_grad():
            for name in self.settings.methods:
                bounds = BOUNDS[name](self.network, batch.ball, rows)
                worst[name] = bounds.margins.amin(1)
                best = bounds.margins if best is None else torch.maximum(best, bounds.margins)
                counts = [layer.unstable.flatten(1).sum(1) for layer in bounds.layers]
                unstable = torch.stack(counts).sum(0).tolist() if counts else [0] * len(batch)
        assert best is not None
        margin, tightest = best.min(1)
        seconds = (time.monotonic() - begin) / len(batch)
        records = []
        for row in range(len(batch)):
            proved = bool(margin[row] > 0)
            alone = [name for name in self.settings.methods if worst[name][row] > 0]
            records.append(
                PointRecord(
                    index=int(batch.indices[row]),
                    label=int(batch.labels[row]),
                    predicted=int(batch.predicted[row]),
                    verdict="robust" if proved else "unknown",
                    method=alone[0] if alone else "+".join(self.settings.methods),
                    margin_lower=float(margin[row]),
                    reason=None if proved else "bound not positive",
                    seconds=seconds,
                    details={
                        "target": int(targets[row, tightest[row]]),
                        "unstable": unstable[row],
                        "margins": {name: float(value[row]) for name, value in worst.items()},
                    },
                )
            )
        return records
