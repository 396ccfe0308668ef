"""Upper bounds on the distance to the nearest misclassified point: points, each confirmed by a float64 forward pass.

In this order: points just behind the decision hyperplanes of the linear region; where Theorem 3.1 does not settle the
distance, what `distance_attacks` finds; and the exact polish of the nearest point found.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.verify import misclassified
from robustcli.balls import vector_norm
from robustcli.boxes import clipped
from robustcli.evaluation.distance_work import Work
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
