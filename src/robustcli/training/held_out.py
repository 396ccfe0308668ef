"""A cheap certified error on training rows that were kept out of training: for the progress line, and to choose by.

A point counts as certified in l_p when its clean margin and its bounds over the ball are positive, in float64 and safe
against rounding; by the bound that the method trains on, by intervals unless asked otherwise, and with linf balls alone
cut with the input box, which for l1 and l2 would cost a lot. No test point is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.bounds.precision import in_single
from robustcli.bounds.types import MarginBounds
from robustcli.data.datasets import Split
from robustcli.networks.network import Network, margin_rows, margins
from robustcli.norms import exponent
from robustcli.training.distributed import ALONE, Group

BATCH = 250

Bound = Callable[[Network, Ball, Tensor], MarginBounds]


@dataclass(frozen=True)
class Look:
    """What an epoch looks at.

    Args:
        bound: what certifies.
        points: how many of the rows, the first ones.
    """

    bound: Bound = interval
    points: int = 1000


LOOKS: dict[str, Look] = {"kw": Look(in_single(dual), 1000), "colt": Look(in_single(dual), 100)}
"""By method, where networks are trained for another bound than intervals, which then certify next to nothing. Fewer
points where an epoch takes less time than bounding a thousand."""


@torch.no_grad()
def certified(network: Network, ball: Ball, labels: Tensor, bound: Bound = interval) -> Tensor:
    """Which points a bound certifies, [B] bool.

    Args:
        network: float64, in evaluation mode.
        ball: around the points.
        bound: safe against rounding.
    """
    rows, _ = margin_rows(labels, network.classes, ball.center.dtype)
    return (margins(network(ball.center), labels) > 0) & (bound(network, ball, rows).margins > 0).all(1)


def certified_errors(
    network: Network,
    split: Split,
    index: Collection[int],
    eps: Mapping[str, float],
    *,
    bound: Bound = interval,
    boxed: Collection[str] = ("linf",),
    group: Group = ALONE,
) -> dict[str, float]:
    """Share of the rows that is not certified in each norm, and in all of them (`union`) where there are several.

    Args:
        index: rows of the split.
        eps: radius per norm.
        bound: what certifies.
        boxed: norms whose balls are cut with the data set's input box.
        group: the processes that share the rows.
    """
    exact, counts = network.double(), torch.zeros(len(eps) + 1, dtype=torch.int64)
    for chosen in torch.tensor(list(index)).split(BATCH)[group.rank :: group.size]:
        points = split.points(chosen, dtype=torch.float64, device=exact.device)
        labels = split.labels_tensor(chosen, device=exact.device)
        boxes = {norm: split.spec.box if norm in boxed else None for norm in eps}
        balls = [Ball.around(points, radius, exponent(norm), boxes[norm]) for norm, radius in eps.items()]
        found = torch.stack([certified(exact, ball, labels, bound) for ball in balls])
        counts += torch.cat([found, found.all(0, keepdim=True)]).sum(1).cpu()
    names = [*eps, "union"] if len(eps) > 1 else list(eps)
    return {
        name: 1 - count / len(index)
        for name, count in zip(names, group.sum(counts).tolist()[: len(names)], strict=True)
    }
