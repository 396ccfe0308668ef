"""CROWN-IBP (Zhang et al. 2020; 004 section 4): interval bounds on the hidden layers, one CROWN pass for the margins.

The pass costs as many rows as there are margins, whatever the width of the network; the hidden bounds two forward
passes.
Where CROWN's line with slope 1 dips below 0 interval arithmetic can be tighter; a margin is the better of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins
from robustcli.bounds.interval import interval
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network


def crown_ibp(
    network: Network, ball: Ball, rows: Tensor, *, known: Sequence[Bounds] | None = None, outward: bool = True
) -> MarginBounds:
    """Interval bounds for every hidden layer and lower bounds on rows @ logits by CROWN over them, and by intervals.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls, any p, boxed or not (boxed: p = 1, 2 or inf).
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        known: sound bounds on the hidden layers over the same balls: none of the result's is looser.
        outward: widen every bound by the rounding error (False only inside training losses).
    Returns:
        margins [B, T] and the hidden bounds.
    """
    found = interval(network, ball, rows, known=known, outward=outward)
    margins = backward_margins(network, ball, rows, found.layers, adaptive, outward)
    return MarginBounds(torch.maximum(margins, found.margins), found.layers)
