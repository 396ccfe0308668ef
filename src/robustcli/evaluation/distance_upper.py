"""Upper bounds on the distance to the nearest misclassified point: points, each confirmed by a float64 forward pass.

In this order: points just behind the decision hyperplanes of the linear region; where Theorem 3.1 does not settle the
distance, the attack; and the exact polish of the nearest point found.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.contract import Task
from robustcli.attacks.nearest import nearest
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.settings import NearestSettings
from robustcli.attacks.verify import misclassified
from robustcli.balls import Ball, vector_norm
from robustcli.boxes import clipped
from robustcli.evaluation.distance_methods import Work
from robustcli.networks.network import Network
from robustcli.regions.affine import decision_rows
from robustcli.regions.box import box_projection, projection
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.polish import polish

BEHIND = (1e-10, 1e-8, 1e-6, 1e-4)
"""How far behind a decision hyperplane its projections are tried, relative to the largest logit: the first is beyond
the rounding of most networks."""


def start(work: Work) -> None:
    """Fill `work.known`: the nearest misclassified points just behind the regions' decision hyperplanes."""
    points, distances = behind_hyperplanes(work)
    for row, distance in enumerate(distances.tolist()):
        work.known.append(
            Incumbent(
                network=work.network,
                center=work.batch.points[row : row + 1],
                label=work.batch.labels[row : row + 1],
                p=work.ball.p,
                box=work.ball.box,
                point=points[row],
                distance=distance,
                source="region" if math.isfinite(distance) else "none",
            )
        )


def attack(work: Work, network: Network, settings: NearestSettings, seed: int) -> None:
    """Search where the distance is not settled.

    Args:
        network: as stored; the attack searches in its precision.
    """
    rows = (~work.settled).nonzero().flatten()
    if not len(rows):
        return
    seeds = point_seeds(seed, work.batch.indices[rows])
    points, distances = _attacked(work, network, rows, settings, seeds)
    for place, row in enumerate(rows.tolist()):
        known = work.known[row]
        if distances[place] < known.distance:
            known.point, known.distance, known.source = points[place], float(distances[place]), "attack"


def refine(work: Work, steps: int) -> None:
    """Polish where the distance is not settled."""
    for row in (~work.settled).nonzero().flatten().tolist():
        if math.isfinite(work.known[row].distance) and steps:
            polish(work.piece(row), work.known[row], steps)


def behind_hyperplanes(work: Work) -> tuple[Tensor, Tensor]:
    """The nearest misclassified point among those just behind the region's decision hyperplanes.

    Returns:
        points [B, *input_shape], and distances [B] (inf, with the original, where none is misclassified).
    """
    points, labels, p, box = work.batch.points, work.batch.labels, work.ball.p, work.ball.box
    rows, values = decision_rows(work.region, labels).flatten(2), work.region.margins(labels)
    x = points.flatten(1)
    best, distance = x.clone(), torch.full_like(values[:, 0], math.inf)
    largest = work.region.values[-1].abs().amax(1, keepdim=True)
    for behind in (share * largest for share in BEHIND):
        if box is None:
            moves = projection(rows, values + behind, p)
        else:
            moves = box_projection(rows, values + behind, x.unsqueeze(1), box, p)
        for moved in moves.unbind(1):
            candidate = clipped(torch.where(moved.isfinite(), x + moved, x), box)
            reached = vector_norm(candidate - x, p)
            wrong = misclassified(work.network, candidate.view_as(points), labels)
            better = wrong & (reached < distance)
            best[better], distance[better] = candidate[better], reached[better]
    return best.view_as(points), distance


def _attacked(
    work: Work, network: Network, rows: Tensor, settings: NearestSettings, seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """The attack's nearest points and their distances; for other p the better of the two norms around it."""
    p, box = work.ball.p, work.ball.box
    points, labels = work.batch.points[rows], work.batch.labels[rows]
    own = p in (1, 2) or math.isinf(p)
    norms = [p] if own else [2.0, 1.0 if p < 2 else math.inf]
    near = torch.stack([work.known[row].point for row in rows.tolist()]) if own else None
    best, distance = points.clone(), torch.full_like(work.upper[rows], math.inf)
    for norm in norms:
        found = nearest(Task.of(network, Ball.around(points, math.inf, norm, box), labels, seeds, near=near), settings)
        measured = vector_norm((found.points - points).flatten(1), p)
        better = found.success & (measured < distance)
        best[better], distance[better] = found.points[better], measured[better]
    return best, distance
