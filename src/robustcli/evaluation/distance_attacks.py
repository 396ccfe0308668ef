"""Attacks for the smallest distance: known witnesses first, then attacks in turn, the nearest point of all is kept.

Each starts from the nearest point known so far and is asked only where the distance is not settled; or, for comparing
attacks, each from scratch about every point. What an attack claims is judged once more in float64.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.attacks.contract import Task
from robustcli.attacks.ensembles import Chosen
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.sought import SOUGHT, distinct, searched_norms
from robustcli.attacks.training import evaluating
from robustcli.attacks.verify import misclassified
from robustcli.balls import Ball, vector_norm
from robustcli.evaluation.distance_work import Work
from robustcli.evaluation.known import Pool, nearest_of, stacked
from robustcli.networks.network import Network
from robustcli.results.attacks import REPLAY


def replay(work: Work, pool: Pool) -> None:
    """Start from the nearest witness stored by any command."""
    for row, known in enumerate(work.known):
        stored, begin = pool.of(work.batch, row), time.monotonic()
        if not stored:
            continue
        candidates = stacked(stored, work.batch.points)
        best = nearest_of(work.network, work.batch, row, candidates)
        if best is None:
            continue
        distance = float(vector_norm((candidates[best] - work.batch.points[row]).flatten(), work.ball.p))
        work.note(row, REPLAY, distance, None, 0, time.monotonic() - begin)
        known.take(candidates[best], distance, REPLAY)


def attack(work: Work, network: Network, attacks: Sequence[Chosen], seed: int, each: bool) -> None:
    """All attacks in turn.

    Args:
        network: as stored; attacks search in its precision.
        each: ask every attack about every point, from scratch.
    """
    for chosen, name in zip(attacks, distinct([one.name for one in attacks]), strict=True):
        wanted = torch.ones_like(work.settled) if each else ~work.settled
        rows = wanted.nonzero().flatten()
        if len(rows):
            _attacked(work, network, rows, chosen, name, point_seeds(seed, work.batch.indices[rows]), each)


def _attacked(work: Work, network: Network, rows: Tensor, chosen: Chosen, name: str, seeds: Tensor, each: bool) -> None:
    """One attack; for other p the better of the two norms around it."""
    begin, p, box = time.monotonic(), work.ball.p, work.ball.box
    points, labels = work.batch.points[rows], work.batch.labels[rows]
    kind, norms = SOUGHT[chosen.name], searched_norms(p)
    near = None if each or p not in norms else torch.stack([work.known[row].point for row in rows.tolist()])
    best, distance = points.clone(), torch.full_like(work.upper[rows], torch.inf)
    passes = torch.zeros_like(labels)
    for norm in (norm for norm in norms if norm in kind.norms):
        ball = Ball.around(points, torch.inf, norm, box)
        with evaluating(network):
            task = Task.of(network, ball, labels, seeds, near=near, exact=work.network)
            found = kind.attack(task, kind.settings(**chosen.settings))
        measured = vector_norm((found.points - points).flatten(1), p)
        better = found.success & misclassified(work.network, found.points, labels) & (measured < distance)
        best[better], distance[better] = found.points[better], measured[better]
        passes = passes + found.passes
    seconds = (time.monotonic() - begin) / len(rows)
    for place, row in enumerate(rows.tolist()):
        known, reached = work.known[row], float(distance[place])
        start = None if near is None or known.distance == torch.inf else known.distance
        work.note(row, name, reached, start, int(passes[place]), seconds)
        known.take(best[place], reached, name)
