"""`robust bound-distance`: how far the nearest misclassified point is, from below by proofs, from above by points.

The lower bound is the best of several methods (`distance_methods`), the upper bound the nearest misclassified point
that hyperplanes, known witnesses, attacks, polish and search find (`distance_upper`, `distance_attacks`). They meet
wherever the search ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from robustcli.attacks.ensembles import Chosen
from robustcli.attacks.settings import NearestSettings
from robustcli.attacks.sought import seek, sought
from robustcli.boxes import Box
from robustcli.errors import ContradictionError, UnknownNameError, UsageError
from robustcli.evaluation import distance_attacks, distance_upper
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import SECONDS
from robustcli.evaluation.distance_complete import NAME, knows
from robustcli.evaluation.distance_methods import DEFAULT, METHODS
from robustcli.evaluation.distance_work import Work
from robustcli.evaluation.known import Pool
from robustcli.networks.network import Network, margins
from robustcli.norms import norm_name
from robustcli.recipes.fields import NonNegative, Strict
from robustcli.regions.box import check_exponent
from robustcli.regions.certificate import RegionBound
from robustcli.regions.pieces import COPIES
from robustcli.regions.row_norms import MEMORY
from robustcli.results.distances import meet
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Place


class Settings(Strict):
    """How to bound distances."""

    methods: list[str] = Field(default=list(DEFAULT), min_length=1, description="lower bounds whose best counts")
    regions: int | None = Field(
        default=5, ge=0, description="neighbouring regions to explore (000 takes 5); null: all that matter"
    )
    attack: bool = Field(default=True, description="also attack where the region does not give the exact distance")
    search: NearestSettings = NearestSettings(rounds=10, steps=50)
    attacks: list[Chosen] = Field(default=[], description="attacks in turn; none: `nearest` with the settings `search`")
    each: bool = Field(default=False, description="every attack from scratch about every point")
    seed: int = Field(default=0, description="of the attacks' random starts")
    polish: int = Field(default=8, ge=0, description="linear pieces in which the nearest point found is made exact")
    time_limit: NonNegative | None = Field(default=None, description="seconds a point for `complete`; null: 60")
    memory: int = Field(default=MEMORY, gt=0, exclude=True, description="bytes for one piece; changes no answer")

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: list[str]) -> list[str]:
        lowered = [name.lower() for name in methods]
        for name in lowered:
            if "," in name:
                each = " ".join(f"--method {part.strip()}" for part in name.split(","))
                raise UsageError(f"--method {name!r} names several methods", f"give it once for each: {each}")
            if name not in METHODS:
                raise UnknownNameError("method", name, METHODS)
        return [name for name in METHODS if name in lowered]

    @model_validator(mode="after")
    def _sensible(self) -> Settings:
        if self.time_limit is not None and NAME not in self.methods:
            raise UsageError("--time-limit limits --method complete, which is not asked for", "add --method complete")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the newer settings where they are not set, so that questions asked before stay the same ones."""
        values: dict[str, Any] = dump(self)
        needed = {"attacks": bool(self.attacks), "each": self.each, "time_limit": self.time_limit is not None}
        return {name: value for name, value in values.items() if needed.get(name, True)}

    @property
    def searches(self) -> list[Chosen]:
        """The attacks to be asked, in turn."""
        if not self.attack:
            return []
        return self.attacks or [sought("nearest", **self.search.model_dump())]

    @classmethod
    def named(cls, names: Sequence[str], p: float, options: Mapping[str, Any], **values: Any) -> Settings:
        """With attacks and ensembles by name, for one norm; see `sought.seek`.

        Raises:
            UsageError: for attacks without a name to go with, see `seek`.
        """
        if not names and any(value is not None for value in options.values()):
            raise UsageError("settings of attacks go with the attacks named", "add --attack NAME")
        return cls(attacks=seek(names, p, options) if names else [], **values)


class DistanceBounder:
    """Bounds the distance of correctly classified points to the nearest misclassified one; norm and box of the batch.

    Args:
        network: as stored; the attack searches in its precision.
        settings: which methods, and their effort.
        witnesses: where the nearest misclassified points are kept, or None to keep none.
    Raises:
        UsageError: when the memory does not hold one point's decision rows.
    """

    def __init__(self, network: Network, settings: Settings, witnesses: Place | None = None) -> None:
        self.network, self.exact, self.model = network, network.double(), network.weights_hash()
        self.settings, self.witnesses = settings, witnesses
        self.known = Pool(witnesses, self.model, network.input_shape)
        # Records are written batch by batch: small ones where a point may take a minute.
        self.batch_size = 4 if NAME in settings.methods else 32
        needed = least_memory(network)
        if settings.memory < needed:
            raise UsageError(
                f"{settings.memory} bytes are too little memory for {network.name}: one point's rows take {needed}",
                f"allow at least --memory {math.ceil(needed / 2**20)}M",
            )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[PointRecord]:
        begin, settings = time.monotonic(), self.settings
        seconds = SECONDS if settings.time_limit is None else settings.time_limit
        work = Work(self.exact, batch, settings.regions, settings.memory, settings.polish, seconds)
        distance_upper.start(work)
        distance_attacks.replay(work, self.known)
        distance_attacks.attack(work, self.network, settings.searches, settings.seed, settings.each)
        distance_upper.refine(work, settings.polish)
        for name in settings.methods:
            if (found := METHODS[name](work)) is not None:
                # A method that lost itself in not-a-number has proved nothing.
                work.lower[name] = torch.where(found.isnan(), 0.0, found)
        best = work.proved
        seconds = (time.monotonic() - begin) / len(batch)
        alone = {name: found.tolist() for name, found in work.lower.items()}
        return [
            self._record(work, row, float(best[row]), {name: found[row] for name, found in alone.items()}, seconds)
            for row in range(len(batch))
        ]

    def _record(self, work: Work, row: int, lower: float, alone: dict[str, float], seconds: float) -> PointRecord:
        batch, known = work.batch, work.known[row]
        index, label, norm = int(batch.indices[row]), int(batch.labels[row]), norm_name(batch.ball.p)
        if lower > known.distance:
            raise ContradictionError(
                f"point {index}: a misclassified point at distance {known.distance!r} in {norm}, "
                f"nearer than the certified {lower!r}",
                "this is a bug; please report it with the checkpoint and the command line",
            )
        name, margin = None, None
        if math.isfinite(known.distance):
            margin = float(margins(self.exact(known.point.unsqueeze(0)), batch.labels[row : row + 1]))
            name = batch.keep(self.witnesses, row, known.point, margin, self.model, found_by=known.source)
        return PointRecord(
            index=index,
            label=label,
            predicted=int(batch.predicted[row]),
            verdict=None,
            method=known.source,
            margin_lower=None,
            margin_upper=margin,
            distance_lower=_finite(lower),
            distance_upper=_finite(known.distance),
            exact=meet(lower, known.distance),
            witness=name,
            reason=None if math.isfinite(known.distance) else "no misclassified point found",
            seconds=seconds,
            details=_details(work, row, alone),
        )


def check(settings: Settings, p: float, box: Box) -> None:
    """Refuse questions that nothing chosen can answer, before anything is computed.

    Raises:
        UsageError: for `boxed` alone without a box, `complete` alone for norms it does not know, and for 1 < p < 1.1
            inside a box.
    """
    if settings.methods == [NAME] and not knows(p):
        raise UsageError(f"--method complete knows l1, l2 and linf, not {norm_name(p)}", "add another --method")
    if box is None and settings.methods == ["boxed"]:
        raise UsageError("--method boxed needs the input box", "leave out --no-box, or add --method region")
    if box is not None:
        check_exponent(p)


def least_memory(network: Network) -> int:
    """Bytes that the decision rows of one point take in float64, with what is pulled back on the way."""
    numbers = COPIES * sum(block.units for block in network.blocks) + math.prod(network.input_shape)
    return 8 * network.classes * numbers


def _details(work: Work, row: int, alone: dict[str, float]) -> dict[str, Any]:
    """All parts for one point; infinite ones as None."""
    (one, _), (infinite, _), (free, _) = work.unboxed
    details: dict[str, Any] = {
        "lower": {name: _finite(value) for name, value in alone.items()},
        "region": _parts(free, row),
    }
    if work.boxed is not None:
        details["boxed"] = _parts(work.boxed, row)
    details["rho"] = {"l1": _finite(float(one.lower[row])), "linf": _finite(float(infinite.lower[row]))}
    if row in work.tried:
        details["upper"] = work.tried[row]
    if row in work.verified:
        details["complete"] = work.verified[row]
    if row in work.reached:
        details["neighbours"] = {"regions": work.reached[row].regions, "complete": work.reached[row].complete}
    return details


def _parts(bound: RegionBound, row: int) -> dict[str, float | None]:
    return {"boundary": _finite(float(bound.boundary[row])), "decision": _finite(float(bound.decision[row]))}


def _finite(value: float) -> float | None:
    """The value, or None for inf."""
    return value if math.isfinite(value) else None
