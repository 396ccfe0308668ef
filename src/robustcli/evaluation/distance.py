"""Distances to the nearest misclassified point: certified by the linear region, bounded from above by points.

lower   the best of: Theorem 3.1 of 000 without the box, the same inside the box, the universal radius of 001
exact   Theorem 3.1 says that the nearest point of the decision hyperplane is the nearest misclassified point
upper   the nearest of: points just behind the decision hyperplanes of the region, the attack's nearest point
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from robustcli.attacks.nearest import nearest
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.settings import NearestSettings
from robustcli.attacks.verify import TIE
from robustcli.balls import vector_norm
from robustcli.errors import ContradictionError
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network, margins
from robustcli.norms import norm_name
from robustcli.recipes.fields import Strict
from robustcli.regions.affine import Region, decision_rows
from robustcli.regions.box import box_projection, projection
from robustcli.regions.certificate import Certificate, RegionBound
from robustcli.regions.universal import certified_radius
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Witness, store

Box = tuple[float, float] | None
BEHIND = (2e-9, 1e-7, 1e-5, 1e-3)
"""How far behind a decision hyperplane, in logits, its projections are tried (the first beyond `verify.TIE`)."""


class Settings(Strict):
    """How to bound distances."""

    attack: bool = Field(
        default=True, description="also search with PGD where the region does not give the exact distance"
    )
    search: NearestSettings = NearestSettings(rounds=10, steps=50)
    seed: int = Field(default=0, description="of the attack's random starts")


@dataclass(frozen=True)
class CertifiedDistances:
    """Certified distances of B points and where they come from.

    Args:
        free: Theorem 3.1 without the box.
        boxed: Theorem 3.1 inside the box, None where there is none.
        universal: hull radius, [B].
        rho: the l1 and linf distances it was made from, each [B].
    """

    free: RegionBound
    boxed: RegionBound | None
    universal: Tensor
    rho: tuple[Tensor, Tensor]

    @property
    def best(self) -> Tensor:
        """The largest of all, [B]."""
        free = torch.maximum(self.free.lower, self.universal)
        return free if self.boxed is None else torch.maximum(free, self.boxed.lower)

    @property
    def exact(self) -> Tensor:
        """Where Theorem 3.1 gives the distance itself (inside the box, where there is one), [B] bool."""
        return self.free.exact if self.boxed is None else self.boxed.exact

    def details(self, row: int) -> dict[str, Any]:
        """All parts for one point; infinite ones as None."""
        parts = {"region": _parts(self.free, row), "universal": _finite(float(self.universal[row]))}
        rho = {"l1": _finite(float(self.rho[0][row])), "linf": _finite(float(self.rho[1][row]))}
        boxed = {} if self.boxed is None else {"boxed": _parts(self.boxed, row)}
        return {**parts, **boxed, "rho": rho}


class DistanceBounder:
    """Bounds the distance of correctly classified points to the nearest misclassified one; norm and box of the batch.

    Args:
        network: as stored; the attack searches in its precision.
        settings: of the attack.
        witnesses: folder for the nearest misclassified points, or None to keep none.
    """

    batch_size = 16

    def __init__(self, network: Network, settings: Settings, witnesses: Path | None = None) -> None:
        self.network, self.exact, self.model = network, network.double(), network.weights_hash()
        self.settings, self.witnesses = settings, witnesses

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[PointRecord]:
        begin = time.monotonic()
        p, box = batch.ball.p, batch.ball.box
        region = Region.of(self.exact, batch.points)
        lower = certified(region, batch.points, batch.labels, p, box)
        found, upper = behind_hyperplanes(self.exact, region, batch.points, batch.labels, p, box)
        method = ["region" if value else "none" for value in upper.isfinite()]
        settled = lower.exact & upper.isfinite()
        if self.settings.attack and not bool(settled.all()):
            rows = (~settled).nonzero().squeeze(1)
            seeds = point_seeds(self.settings.seed, batch.indices[rows])
            points, distances = self._attacked(batch, rows, upper[rows], seeds)
            better = distances < upper[rows]
            found[rows[better]], upper[rows[better]] = points[better], distances[better]
            for row in rows[better].tolist():
                method[row] = "attack"
        seconds = (time.monotonic() - begin) / len(batch)
        return [
            self._record(batch, row, lower, found[row], float(upper[row]), method[row], seconds)
            for row in range(len(batch))
        ]

    def _attacked(self, batch: Batch, rows: Tensor, known: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """The attack's nearest points and their distances; for other p the better of the two norms around it."""
        p, box = batch.ball.p, batch.ball.box
        points, labels = batch.points[rows], batch.labels[rows]
        own = p in (1, 2) or math.isinf(p)
        norms = [p] if own else [2.0, 1.0 if p < 2 else math.inf]
        hints = 0.9 * known if own else None
        best, distance = points.clone(), torch.full_like(known, math.inf)
        for norm in norms:
            candidates, reached = nearest(self.network, points, labels, norm, box, hints, self.settings.search, seeds)
            measured = vector_norm((candidates - points).flatten(1), p)
            better = reached.isfinite() & (measured < distance)
            best[better], distance[better] = candidates[better], measured[better]
        return best, distance

    def _record(
        self,
        batch: Batch,
        row: int,
        lower: CertifiedDistances,
        witness: Tensor,
        upper: float,
        method: str,
        seconds: float,
    ) -> PointRecord:
        index, low = int(batch.indices[row]), float(lower.best[row])
        if low > upper:
            raise ContradictionError(
                f"point {index}: a misclassified point at distance {upper!r} in {norm_name(batch.ball.p)}, "
                f"nearer than the certified {low!r}",
                "this is a bug; please report it with the checkpoint and the command line",
            )
        name, margin = None, None
        if math.isfinite(upper):
            margin = float(margins(self.exact(witness.unsqueeze(0)), batch.labels[row : row + 1]))
            if self.witnesses is not None:
                found = Witness(
                    point=batch.points[row].cpu().numpy(),
                    witness=witness.cpu().numpy(),
                    index=index,
                    label=int(batch.labels[row]),
                    margin=margin,
                    norm=norm_name(batch.ball.p),
                    distance=upper,
                    model=self.model,
                )
                name = store(self.witnesses, found)
        return PointRecord(
            index=index,
            label=int(batch.labels[row]),
            predicted=int(batch.predicted[row]),
            verdict=None,
            method=method,
            margin_lower=None,
            margin_upper=margin,
            distance_lower=_finite(low),
            distance_upper=_finite(upper),
            exact=bool(lower.exact[row]),
            witness=name,
            reason=None if math.isfinite(upper) else "no misclassified point found",
            seconds=seconds,
            details=lower.details(row),
        )


def certified(region: Region, points: Tensor, labels: Tensor, p: float, box: Box) -> CertifiedDistances:
    """Certified lower bounds on the distance of correctly classified points to the nearest misclassified one.

    The universal radius takes the l1 and linf distances without the box (001 Theorem 4.1 holds for those only).
    """
    certificate = Certificate.of(region, points, labels)
    (one, _), (infinite, _), (free, units) = certificate.unboxed([1.0, math.inf, p])
    radius = certified_radius(one.lower.cpu().numpy(), infinite.lower.cpu().numpy(), p, points[0].numel())
    universal = torch.as_tensor(radius, dtype=points.dtype, device=points.device)
    boxed = None if box is None else certificate.boxed(p, box, units)
    return CertifiedDistances(free, boxed, universal, (one.lower, infinite.lower))


def behind_hyperplanes(
    exact: Network, region: Region, points: Tensor, labels: Tensor, p: float, box: Box
) -> tuple[Tensor, Tensor]:
    """The nearest misclassified point among those just behind the region's decision hyperplanes.

    Returns:
        points [B, *input_shape], and distances [B] (inf, with the original, where none is misclassified).
    """
    rows, values = decision_rows(region, labels).flatten(2), region.margins(labels)
    x = points.flatten(1)
    best, distance = x.clone(), torch.full_like(values[:, 0], math.inf)
    for behind in BEHIND:
        if box is None:
            moves = projection(rows, values + behind, p)
        else:
            moves = box_projection(rows, values + behind, x.unsqueeze(1), box, p)
        for moved in moves.unbind(1):
            candidate = torch.where(moved.isfinite(), x + moved, x)
            if box is not None:
                candidate = candidate.clamp(*box)
            reached = vector_norm(candidate - x, p)
            wrong = margins(exact(candidate.view_as(points)), labels) < -TIE
            better = wrong & (reached < distance)
            best[better], distance[better] = candidate[better], reached[better]
    return best.view_as(points), distance


def _parts(bound: RegionBound, row: int) -> dict[str, float | None]:
    return {"boundary": _finite(float(bound.boundary[row])), "decision": _finite(float(bound.decision[row]))}


def _finite(value: float) -> float | None:
    """The value, or None for inf."""
    return value if math.isfinite(value) else None
