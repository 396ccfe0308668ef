"""A solver's incumbent is only a hint: the float64 forward pass inside ball and box decides.

Solver tolerances let an incumbent leave the ball by 1e-9 and claim a margin the network does not have (Tjeng et al.'s
tool counted such points as attacks), so it is projected first and judged like the answer of any other attack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.attacks.verify import confirm
from robustcli.balls import Ball
from robustcli.mip.problem import Vector
from robustcli.networks.network import Network


@dataclass(frozen=True)
class Witness:
    """A misclassified input inside ball and box: float64, [*input_shape], with its margin f_y - max f_t < 0."""

    x: Tensor
    margin: float


def replay(network: Network, ball: Ball, label: int, x: Vector) -> tuple[Witness | None, float]:
    """Judge a candidate.

    Args:
        network: in float64.
        ball: one ball, float64.
        label: the true class.
        x: [d], the candidate.
    Returns:
        the witness, or None when the forward pass rejects it, and the margin found in either case.
    """
    candidate = torch.as_tensor(x, dtype=ball.center.dtype, device=ball.center.device).view_as(ball.center)
    found = confirm(network, ball, torch.tensor([label], device=candidate.device), candidate)
    margin = float(found.margins[0])
    return (Witness(found.points[0], margin) if bool(found.success[0]) else None), margin
