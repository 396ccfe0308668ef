"""The judge of every attack: a float64 forward pass at a point that lies inside ball and box in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.attacks.projection import projector
from robustcli.balls import Ball
from robustcli.networks.network import Network, margins
from robustcli.regions.rounding import margin_errors

SHRINK = 1e-9
"""Relative shrinking of the radius before the last projection, so that no other order of summation finds it outside."""


@dataclass(frozen=True)
class Confirmed:
    """Candidates after the check.

    points: float64, inside ball and box, [B, *input_shape].
    logits: float64, [B, K].
    margins: float64 f_y - max f_t, [B].
    success: misclassified beyond rounding, and membership recomputed, [B] bool.
    """

    points: Tensor
    logits: Tensor
    margins: Tensor
    success: Tensor


@torch.no_grad()
def confirm(exact: Network, ball: Ball, labels: Tensor, candidates: Tensor) -> Confirmed:
    """Project candidates onto float64 ball and box, evaluate the float64 network there, and judge.

    Args:
        exact: `network.double()`.
        ball: in float64, [B, *input_shape].
        labels: [B].
        candidates: [B, *input_shape], any precision, near the ball.
    """
    points = candidates.to(torch.float64)
    points = _inside(Ball(ball.center, ball.eps * (1 - SHRINK), ball.p, ball.box), points)
    logits = exact(points)
    wrong = _beyond_rounding(exact, points, labels, logits)
    return Confirmed(points, logits, margins(logits, labels), wrong & ball.contains(points))


def _inside(ball: Ball, points: Tensor) -> Tensor:
    """The points, those outside projected: quickly, and by bisection where rounding leaves that outside."""
    outside = (~ball.contains(points)).nonzero().squeeze(1)
    if len(outside):
        asked, points = points[outside], points.clone()
        near = ball.take(outside)
        points[outside] = projector(near)(asked)
        still = (~Ball(near.center, near.eps * (1 + SHRINK / 2), ball.p, ball.box).contains(points[outside])).nonzero()
        rows = outside[still.squeeze(1)]
        points[rows] = ball.take(rows).project(asked[still.squeeze(1)])
    return points


@torch.no_grad()
def misclassified(network: Network, points: Tensor, labels: Tensor) -> Tensor:
    """Whether the real-valued network misclassifies points [B, *input_shape] in its precision, [B] bool.

    A margin closer to 0 than its rounding error depends on the order of summation: that is a tie, and no success.
    """
    return _beyond_rounding(network, points, labels, network(points))


def _beyond_rounding(network: Network, points: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    wrong = margins(logits, labels) < 0
    rows = wrong.nonzero().squeeze(1)  # most candidates are no counterexamples: the others alone cost more
    if len(rows):
        logits, labels = logits[rows], labels[rows]
        others = torch.arange(logits.shape[1], device=labels.device) != labels.unsqueeze(1)
        differences = logits.gather(1, labels.unsqueeze(1)) - logits[others].view(len(rows), -1)
        wrong[rows] = (differences < -margin_errors(network, points[rows], labels)).any(1)
    return wrong
