"""Bounds on hidden layers for training: estimated by random projections as in 002 (appendix B), or those of KW.

The outputs of a layer reach as far as the l1 norms of the rows of its A, sums over sources of error terms: the input
and every ReLU passed. The median of the projections is taken source by source, as in `bounds.projections`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.projections import projected
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Network
from robustcli.recipes.methods import Colt as Settings

Bounding = Callable[[Network, Ball, int, torch.Generator | None], list[Bounds]]
"""Bounds on the first so many hidden layers, with gradients in the weights that have any; they certify nothing."""


def exact(network: Network, ball: Ball, depth: int, generator: torch.Generator | None) -> list[Bounds]:
    """The KW bounds, which the zonotope of smallest area has, up to rounding."""
    below = network.below(depth)
    return dual(below, ball, _nothing(below, ball), outward=False).layers


def estimated(
    network: Network, ball: Ball, depth: int, generator: torch.Generator | None, *, count: int
) -> list[Bounds]:
    """The same from `count` Cauchy projections of every source of error terms but the newest."""
    below = network.below(depth)
    return projected(below, ball, _nothing(below, ball), count, generator).layers


def _nothing(below: Network, ball: Ball) -> Tensor:
    """One row of zeros, [B, 1, K]: only the layers matter."""
    return ball.center.new_zeros(ball.size, 1, below.classes)


BOUNDINGS: dict[str, Callable[[Settings], Bounding]] = {
    "projected": lambda settings: partial(estimated, count=settings.projections),
    "exact": lambda settings: exact,
}
"""By the name in recipes."""
