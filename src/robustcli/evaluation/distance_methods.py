"""Lower bounds on the distance to the nearest misclassified point, each method alone.

The best of them counts, point by point:

    region       Theorem 3.1 of 000 on the linear region of the point, without the box
    boxed        the same inside the input box (000 appendix A.1)
    neighbours   the region and its neighbours, in order of distance (000 appendix A.2)
    universal    the l_p ball inside the hull of the certified l1 and linf balls (001 Theorem 4.1)
    kw           the largest radius that the KW dual bound certifies (003 section 4.4)
    crown        the same with CROWN's bound
    alpha        the same with alpha-CROWN's
    complete     the largest ball, up to the nearest misclassified point known, that branch and bound verifies
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robustcli.bounds.alpha import alpha
from robustcli.bounds.crown import crown
from robustcli.bounds.dual import dual
from robustcli.bounds.radius import Bound, largest_certified
from robustcli.evaluation.distance_complete import complete
from robustcli.evaluation.distance_work import Work
from robustcli.regions.neighbours import search
from robustcli.regions.universal import certified_radius

POINTS = 16  # certified at once


Method = Callable[[Work], Tensor | None]


def region(work: Work) -> Tensor:
    """Theorem 3.1 without the box."""
    return work.unboxed[2][0].lower


def boxed(work: Work) -> Tensor | None:
    """Theorem 3.1 inside the box."""
    return None if work.boxed is None else work.boxed.lower


def neighbours(work: Work) -> Tensor:
    """The best-first search over pieces; where Theorem 3.1 is exact there is nothing to search."""
    lower = work.theorem.lower.clone()
    for row in (~work.settled).nonzero().flatten().tolist():
        doubtful = work.doubtful(row).numpy(force=True).astype(np.bool_)
        found = search(work.piece(row), doubtful, work.ball.p, work.ball.box, work.regions, work.known[row])
        lower[row] = found.lower
        work.reached[row] = found
    return lower


def universal(work: Work) -> Tensor:
    """The universal radius, from l1 and linf distances without the box (001 Theorem 4.1 holds for those only)."""
    (one, _), (infinite, _), _ = work.unboxed
    dimension = work.batch.points[0].numel()
    radius = certified_radius(one.lower.numpy(force=True), infinite.lower.numpy(force=True), work.ball.p, dimension)
    return torch.as_tensor(radius).to(work.batch.points)


def certified(bound: Bound) -> Method:
    """The eps-distance of a bound: the largest radius that it certifies."""

    def radius(work: Work) -> Tensor:
        batch, p, box = work.batch, work.ball.p, work.ball.box
        return torch.cat(
            [
                largest_certified(work.network, batch.points[i], batch.labels[i], p, box, work.upper[i], bound)
                for i in torch.arange(len(batch), device=batch.points.device).split(POINTS)
            ]
        )

    return radius


METHODS: dict[str, Method] = {
    "region": region,
    "boxed": boxed,
    "neighbours": neighbours,
    "universal": universal,
    "kw": certified(dual),
    "crown": certified(crown),
    "alpha": certified(alpha),
    "complete": complete,
}
"""Every method by name, in the order of `results.distances.ORDER`; None where a method does not apply."""

DEFAULT = ("region", "boxed", "neighbours", "universal", "kw")
"""What is asked when no method is named: what the papers have. The others take longer."""
