"""Which classes points of a ball can be taken for at all: those that sound bounds rule out need no search.

    min over the ball of  f_y(z) - f_t(z)  >  0     =>     no point of it is classified as t

The bound is the larger one of the KW dual's and CROWN's, rounding included: a class is left out only where that is
proved. On robust networks nearly all classes of most points go this way, in milliseconds a point, where a search that
is bound to fail takes a second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.crown import crown
from robustcli.bounds.dual import dual
from robustcli.bounds.precision import in_single
from robustcli.networks.network import Network, margin_rows

_dual, _crown = in_single(dual), in_single(crown)


@torch.no_grad()
def in_reach(exact: Network, ball: Ball, labels: Tensor) -> Tensor:
    """The classes other than the label that are not proved out of reach, [B, K] bool.

    Args:
        exact: the network in float64, in evaluation mode.
        ball: in float64; about balls without a finite radius above 0 nothing is said.
        labels: [B].
    """
    reachable = torch.arange(exact.classes, device=labels.device) != labels.unsqueeze(1)
    asked = (ball.eps.isfinite() & (ball.eps > 0)).nonzero().squeeze(1)
    if exact.classes == 1 or len(asked) == 0:
        return reachable
    some = ball.take(asked)
    rows, others = margin_rows(labels[asked], exact.classes, torch.float64)
    first = _dual(exact, some, rows)
    best = torch.fmax(first.margins, _crown(exact, some, rows, known=first.layers).margins)
    # Not `best <= 0`: a bound that is no number rules out nothing.
    return reachable.index_copy(0, asked, reachable[asked].scatter(1, others, ~(best > 0)))
