"""Domains in which every neuron's sign is fixed: the network is affine there, and the question is one of distance.

Does the linear piece that the signs describe contain a point within eps of x with f_y <= f_t? Its nearest such point is
found exactly, and a lower bound on its distance proved by multipliers (`regions.cuts`), for every l_p ball.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound.system import System
from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.cuts import nearest
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.pieces import Piece

NEVER = math.inf  # the size of a unit whose inequality no point violates


def closed(
    network: Network, ball: Ball, label: int, layers: Sequence[Bounds], system: System, signs: Tensor, target: int
) -> tuple[bool, Tensor | None]:
    """Whether a fully split domain holds no point of the ball with f_y <= f_t; and the point found where it may.

    Args:
        network: float64.
        ball: one ball.
        layers: the hidden bounds the system was made from.
        signs: S of the domain, [n], none of them 0; those at any point ask about the linear piece around it.
        target: the class t.
    Returns:
        (proved, candidate [1, *input_shape] or None).
    """
    masks, sizes = [], []
    for position, layer in enumerate(layers):
        mask = layer.active.to(torch.float64).flatten()
        here = system.hidden_layers == position
        mask[system.units[here]] = (signs[here] < 0).to(torch.float64)
        masks.append(mask.view(layer.lower.shape))
        # A unit that no form uses has no sign in the domain, whatever its mask says: it must not exclude a point. Of
        # infinite size, it is never violated.
        idle = layer.unstable.flatten().clone()
        idle[system.units[here]] = False
        sizes.append(torch.where(idle, NEVER, 1.0))
    piece = Piece(
        network=network,
        masks=tuple(masks),
        point=ball.center,
        label=torch.tensor([label], device=ball.center.device),
        q=dual(ball.p),
        # Only a scale here: nothing is proved from it. Empty where there is no hidden layer.
        norms=np.concatenate([np.empty(0), *(size.numpy(force=True) for size in sizes)]),
    )
    eps = float(ball.eps[0])
    beyond = math.nextafter(eps, math.inf)
    other = target - (target > label)
    found = nearest(piece, ball.p, ball.box, other, enough=beyond)
    if found.lower > eps:
        return True, None
    # The nearest point is a tie; a witness lies a little behind it.
    known = Incumbent(network, ball.center, piece.label, ball.p, ball.box, ball.center[0], beyond)
    if found.move is None or not known.offer(found.move, "leaf"):
        known.offer_behind(piece, other, "leaf", found.used)
    return False, known.point.unsqueeze(0) if known.distance < beyond else None
