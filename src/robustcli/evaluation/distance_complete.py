"""The distance by complete verification: does the ball that ends just before the nearest misclassified point known hold
another one?

Branch and bound answers. If there is none, the distance is known to one part in a million. If there is a nearer point,
it is taken, made exact on its linear pieces, and the question asked again. What half of the time does not settle is
asked about smaller balls, down to what other methods have proved.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.balls import Ball, vector_norm
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import Certifier, resolve
from robustcli.evaluation.distance_work import Work
from robustcli.evaluation.stages import BranchAndBound
from robustcli.regions.polish import polish
from robustcli.results.distances import MEETS, meet
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Witness

NAME = "complete"
SHARES = ((1 - MEETS / 2, 0.5), (0.99, 0.3), (0.95, 0.4), (0.9, 0.5), (0.8, 1.0))
"""Radii in units of the nearest distance known, and the share of the time left that each may take."""
ROUNDS = 20
"""How often a nearer point is taken, at most."""


def knows(p: float) -> bool:
    """Whether branch and bound knows the norm."""
    return BranchAndBound().applies(p)


def complete(work: Work) -> Tensor | None:
    """The largest radius verified, or what is proved where nothing is left to ask, [B]; None for other norms."""
    if not knows(work.ball.p):
        return None
    lower = torch.where(work.settled, work.theorem.lower, work.proved)
    for row in (~work.settled & work.upper.isfinite()).nonzero().flatten().tolist():
        if not meet(float(lower[row]), work.known[row].distance):
            lower[row] = max(float(lower[row]), _radius(work, row))
    return lower


def _radius(work: Work, row: int) -> float:
    """The largest radius verified for one point, 0 for none; `work.known` may come nearer."""
    begin, known, start = time.monotonic(), work.known[row], work.known[row].distance
    found = 0.0
    for share, part in SHARES:
        left = part * (begin + work.seconds - time.monotonic())
        if left <= 0 or share * known.distance <= float(work.proved[row]):
            break
        if found := _verified(work, row, share, left):
            break
    # Not beside the attacks in `work.tried`: these are compared where all of them found something.
    work.verified[row] = {
        "radius": found,
        "nearer": start - known.distance,
        "seconds": time.monotonic() - begin,
    }
    return found


def _verified(work: Work, row: int, share: float, seconds: float) -> float:
    """That share of the nearest distance, if the ball of that radius is verified in time, else 0."""
    end = time.monotonic() + seconds
    for _ in range(ROUNDS):
        radius = share * work.known[row].distance
        record, kept = _asked(work, row, radius, max(end - time.monotonic(), 0.0))
        if record.verdict == "robust":
            return radius
        if record.witness is None or not _taken(work, row, kept[record.witness]):
            break
    return 0.0


def _asked(work: Work, row: int, radius: float, seconds: float) -> tuple[PointRecord, dict[str, Witness]]:
    """The verdict about one ball, and the witness it may rest on."""
    batch: Batch = work.batch.take(torch.tensor([row], device=work.batch.points.device))
    eps = torch.full_like(batch.points.flatten()[:1], radius)
    batch = replace(batch, ball=Ball(batch.points, eps, work.ball.p, work.ball.box))
    boxed = work.ball.box is not None
    methods = (*resolve(work.ball.p, boxed).methods, "branch-and-bound")
    kept: dict[str, Witness] = {}
    (record,) = Certifier(work.network, resolve(work.ball.p, boxed, methods, time_limit=seconds), kept)(batch)
    return record, kept


def _taken(work: Work, row: int, witness: Witness) -> bool:
    """Take a nearer misclassified point and make it exact on its pieces; whether it is nearer."""
    known = work.known[row]
    point = torch.from_numpy(witness.witness).to(known.point).view_as(known.point)
    if not known.take(point, float(vector_norm((point - work.batch.points[row]).flatten(), work.ball.p)), NAME):
        return False
    if work.polish:
        polish(work.piece(row), known, work.polish)
        known.source = NAME
    return True
