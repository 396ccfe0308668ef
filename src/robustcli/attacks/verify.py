"""The judge of every attack: a float64 forward pass at a point that lies inside ball and box in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.networks.network import Network, margins

SHRINK = 1e-9
"""Relative shrinking of the radius before the last projection, so that no other order of summation finds it outside."""

TIE = 1e-9
"""Margins closer to 0 than this (in logits) depend on the order of summation: no success, the point stays unknown."""


@dataclass(frozen=True)
class Confirmed:
    """Candidates after the check.

    points: float64, inside ball and box, [B, *input_shape].
    logits: float64, [B, K].
    margins: float64 f_y - max f_t, [B].
    success: margin < -TIE and membership recomputed, [B] bool.
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
    tight = Ball(ball.center, ball.eps * (1 - SHRINK), ball.p, ball.box)
    points = candidates.to(torch.float64)
    points = torch.where(tight.contains(points).view(-1, *[1] * (points.dim() - 1)), points, tight.project(points))
    logits = exact(points)
    found = margins(logits, labels)
    return Confirmed(points, logits, found, (found < -TIE) & ball.contains(points))
