"""What `robust bound-distance` knows of a batch while it works: linear regions, nearest misclassified points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network
from robustcli.norms import dual as dual_exponent
from robustcli.regions.affine import Region
from robustcli.regions.certificate import Certificate, RegionBound
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.neighbours import Reached
from robustcli.regions.pieces import Piece


@dataclass(frozen=True)
class Work:
    """A batch of correctly classified points, and what several methods share.

    Args:
        network: float64.
        batch: the points; norm and box are those of its ball.
        regions: further pieces that the neighbours search may explore, None for all that matter.
        memory: bytes for one piece of the computations.
        polish: linear pieces on which a nearer point is made exact.
        seconds: for complete verification of a point.
        lower: what methods have proved so far, by name, [B] each.
        known: the nearest misclassified point known of each point; the neighbours search improves it in place.
        reached: what that search found, by row.
        pieces: see `piece`.
        tried: what each attack found, by row and name.
        verified: what complete verification came to, by row.
    """

    network: Network
    batch: Batch
    regions: int | None
    memory: int
    polish: int = 0
    seconds: float = 0.0
    lower: dict[str, Tensor] = field(default_factory=dict)
    known: list[Incumbent] = field(default_factory=list)
    reached: dict[int, Reached] = field(default_factory=dict)
    pieces: dict[int, Piece] = field(default_factory=dict)
    tried: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    verified: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def ball(self) -> Ball:
        """Norm and box of the question."""
        return self.batch.ball

    @cached_property
    def region(self) -> Region:
        """The linear regions of the points."""
        return Region.of(self.network, self.batch.points)

    @cached_property
    def certificate(self) -> Certificate:
        """What the bounds of the regions rest on."""
        return Certificate.of(self.region, self.batch.points, self.batch.labels, memory=self.memory)

    @cached_property
    def unboxed(self) -> list[tuple[RegionBound, Tensor]]:
        """Theorem 3.1 without the box in l1, linf and the norm asked for, with all units' distances."""
        return self.certificate.unboxed([1.0, math.inf, self.ball.p])

    @cached_property
    def boxed(self) -> RegionBound | None:
        """Theorem 3.1 inside the box, None where there is none."""
        if self.ball.box is None:
            return None
        return self.certificate.boxed(self.ball.p, self.ball.box, self.unboxed[2][1])

    @property
    def theorem(self) -> RegionBound:
        """Theorem 3.1 for the question as asked."""
        return self.unboxed[2][0] if self.boxed is None else self.boxed

    @property
    def upper(self) -> Tensor:
        """Distances of the nearest misclassified points known, [B]."""
        return torch.tensor([one.distance for one in self.known]).to(self.batch.points)

    @property
    def proved(self) -> Tensor:
        """The best lower bounds so far, [B]."""
        return torch.stack([*self.lower.values(), torch.zeros(len(self.batch)).to(self.batch.points)]).amax(0)

    @property
    def settled(self) -> Tensor:
        """Where Theorem 3.1 gives the distance itself, and a point at it is known, [B] bool."""
        return self.theorem.exact & self.upper.isfinite()

    def note(self, row: int, name: str, distance: float, start: float | None, passes: int, seconds: float) -> None:
        """Write down what an attack found.

        Args:
            distance: of the nearest point it found, inf for none.
            start: distance of the point it started from; None where it started from scratch.
        """
        reached = distance if math.isfinite(distance) else None
        self.tried.setdefault(row, {})[name] = {
            "distance": reached,
            "start": start,
            "passes": passes,
            "seconds": seconds,
        }

    def doubtful(self, row: int) -> Tensor:
        """Units whose sign at a point is in doubt, [N] bool."""
        return self.region.hidden()[row].abs() <= self.certificate.errors.values[row]

    def piece(self, row: int) -> Piece:
        """The linear region of a point as a piece, its norms from the certified distances of its units; made once."""
        if row not in self.pieces:
            self.pieces[row] = self._piece(row)
        return self.pieces[row]

    def _piece(self, row: int) -> Piece:
        distances = self.unboxed[2][1][row]
        room = self.region.hidden()[row].abs() - self.certificate.errors.values[row]
        room = room.clamp(min=0) * (1 + self.certificate.relative)
        norms = torch.where(distances.isinf(), 0.0, room / torch.where(distances > 0, distances, 1.0))
        piece = Piece(
            network=self.network,
            masks=tuple(mask[row : row + 1] for mask in self.region.masks),
            point=self.batch.points[row : row + 1],
            label=self.batch.labels[row : row + 1],
            q=dual_exponent(self.ball.p),
            norms=norms.numpy(force=True),
            memory=self.memory,
        )
        unknown = (distances == 0).nonzero().flatten().tolist()
        piece.norms[unknown] = piece.bounded_norms(unknown)
        return piece
