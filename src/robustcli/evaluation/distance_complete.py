"""The distance by complete verification: does the ball that ends just before the nearest misclassified point known hold
another one?

Branch and bound answers. If there is none, the distance is known to one part in a million. If there is a nearer point,
it is taken, made exact on its linear pieces, and the question asked again. Where the time limit comes first, smaller
balls are asked about in turn, each for a share of the time.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.balls import Ball, vector_norm
from robustcli.evaluation.certify import QUICK, Certifier, resolve
from robustcli.evaluation.distance_work import Work
from robustcli.evaluation.stages import BranchAndBound
from robustcli.regions.polish import polish
from robustcli.results.distances import MEETS
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Witness

SHARES = (1 - MEETS / 2, 0.99, 0.95, 0.9, 0.8)
"""Radii in units of the nearest distance known; each has the same share of what time is left."""
ROUNDS = 20
"""How often a nearer point is taken, at most."""
PIECES = 8
"""Linear pieces on which a nearer point is made exact."""


def complete(work: Work) -> Tensor | None:
    """The largest radius that is verified, [B]; None for norms that branch and bound does not know."""
    if not BranchAndBound().applies(work.ball.p):
        return None
    lower = torch.where(work.settled, work.theorem.lower, 0.0)
    for row in (~work.settled & work.upper.isfinite()).nonzero().flatten().tolist():
        lower[row] = _radius(work, row, work.seconds)
    return lower


def _radius(work: Work, row: int, seconds: float) -> float:
    """The largest radius verified for one point; `work.known` may come nearer."""
    end, known = time.monotonic() + seconds, work.known[row]
    for place, share in enumerate(SHARES):
        for _ in range(ROUNDS):
            radius = share * known.distance
            left = (end - time.monotonic()) / (len(SHARES) - place)
            record, kept = _verify(work, row, radius, max(left, 0.0))
            if record.verdict == "robust":
                return radius
            if record.witness is None or not _take(work, row, kept[record.witness]):
                break
    return 0.0


def _verify(work: Work, row: int, radius: float, seconds: float) -> tuple[PointRecord, dict[str, Witness]]:
    """The verdict about one ball, and the witness it may rest on."""
    batch = work.batch.take(torch.tensor([row], device=work.batch.points.device))
    eps = torch.full_like(batch.points.flatten()[:1], radius)
    batch = replace(batch, ball=Ball(batch.points, eps, work.ball.p, work.ball.box))
    methods = (*QUICK, "branch-and-bound")
    settings = resolve(work.ball.p, work.ball.box is not None, methods, time_limit=seconds)
    kept: dict[str, Witness] = {}
    (record,) = Certifier(work.network, settings, kept)(batch)
    return record, kept


def _take(work: Work, row: int, witness: Witness) -> bool:
    """Take a nearer misclassified point and make it exact on its pieces; whether it is nearer."""
    known = work.known[row]
    point = torch.from_numpy(witness.witness).to(known.point).view_as(known.point)
    if not known.take(point, float(vector_norm((point - work.batch.points[row]).flatten(), work.ball.p)), "complete"):
        return False
    polish(work.piece(row), known, PIECES)
    return True
