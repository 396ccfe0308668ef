"""The border on the segment from a point to a misclassified one: where every minimal-norm attack ends.

The margin along the segment is piecewise linear. Bisection narrows the bracket, and between its steps a secant aims
just behind the border; it hits as soon as the bracket lies in one linear piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.boxes import Box, clipped
from robustcli.networks.network import Network, margins

STEPS = 20
BEHIND = {torch.float64: 1e-10, torch.float32: 1e-5}
"""How far below 0 the margin has to be, relative to 1 + the largest logit: beyond the rounding of most networks."""


@torch.no_grad()
def pulled(network: Network, center: Tensor, labels: Tensor, found: Tensor, box: Box, steps: int = STEPS) -> Tensor:
    """The nearest misclassified point met on each segment from `center` to `found`, in float64.

    Args:
        network: in evaluation mode; the segment is searched in its precision.
        center: [B, *input_shape] float64.
        labels: [B].
        found: [B, *input_shape] float64.
        box: the answers stay in it.
        steps: forward passes after the first two.
    Returns:
        [B, *input_shape]; `found` itself where it is not misclassified.
    """
    move = found - center
    view = (-1, *[1] * (center.dim() - 1))

    def at(reach: Tensor) -> Tensor:
        return clipped(center + reach.view(view) * move, box)

    def margin(points: Tensor) -> Tensor:
        """f_y - max f_t in units that make -1 clear, float64 [B]."""
        logits = network(points.to(network.dtype)).to(torch.float64)
        clear = BEHIND.get(network.dtype, BEHIND[torch.float32]) * (1 + logits.abs().amax(1))
        return (margins(logits, labels) / clear).nan_to_num(nan=torch.inf)

    low, high = torch.zeros_like(labels, dtype=torch.float64), torch.ones_like(labels, dtype=torch.float64)
    above, below = margin(center), margin(found)
    wrong_at_all = below < -1
    high = torch.where(above < -1, 0.0, high)
    for step in range(steps):
        share = (above + 2) / (above - below)  # of the bracket, up to a margin of -2
        secant = low + share * (high - low)
        inside = (secant > low) & (secant < high) if step % 2 else torch.zeros_like(wrong_at_all)
        middle = torch.where(inside, secant, (low + high) / 2)
        value = margin(at(middle))
        wrong = value < -1
        low, above = torch.where(wrong, low, middle), torch.where(wrong, above, value)
        high, below = torch.where(wrong, middle, high), torch.where(wrong, value, below)
    return torch.where(wrong_at_all.view(view), at(high), found)
