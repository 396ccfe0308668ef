"""Some neurons exact, the others relaxed (002, section 6): the MIP with fewer binaries.

A binary that may take every value in [0, 1] leaves its neuron the triangle

    y >= 0,   y >= z,   y <= u (z - l) / (u - l),

so that with few binaries the set still holds every input of the ball and the minimum of a margin over it is a lower
bound. 002 describes the layers below the exact ones by their zonotope, which the triangles refine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import Relaxation
from robustcli.bounds.latent import Region, above
from robustcli.bounds.types import Bounds
from robustcli.mip.encoding import Encoding
from robustcli.networks.network import Network


@dataclass(frozen=True)
class Chosen:
    """Which neurons are exact, target by target.

    Args:
        first: the first hidden layer (0-based) with exact neurons.
        most: how many of them there may be; None for any number.
        weights: how much a neuron matters, [T, *shape] a hidden layer; those that matter most are taken.
    """

    first: int
    most: int | None
    weights: Sequence[Tensor]

    def __call__(self, encoding: Encoding, target: int) -> NDArray[np.bool_]:
        """Of the unstable neurons of the encoding, [n]."""
        weights = [layer[target].flatten().cpu().numpy() for layer in self.weights]
        pairs = zip(encoding.layers, encoding.units, strict=True)
        weight = np.array([weights[layer][unit] for layer, unit in pairs], dtype=np.float64)
        late = np.flatnonzero(encoding.layers >= self.first)
        taken = late[np.argsort(-np.nan_to_num(weight[late]), kind="stable")[: self.most]]
        keep = np.zeros(len(weight), dtype=np.bool_)
        keep[taken] = True
        return keep


def slope_gradients(network: Network, ball: Ball, rows: Tensor, layers: Sequence[Bounds]) -> list[Tensor]:
    """How fast the margin that the zonotope proves changes with the slope of each unit, from those of smallest area on.

    The margin is the value at the worst error terms, which are found first and then held (envelope theorem); so are the
    hidden bounds. At the slope of smallest area the gap max(-slope l, (1 - slope) u) bends: its derivative is taken for
    the mean of both sides.

    Args:
        ball: one linf ball.
        rows: functionals of the logits, [1, T, K].
        layers: sound bounds on the hidden layers, [1, *shape] each.
    Returns:
        [T, *shape] a hidden layer, 0 at stable units.
    """
    if not layers:
        return []
    every = torch.zeros(rows.shape[1], dtype=torch.int64, device=rows.device)
    layers = [bounds.take(every) for bounds in layers]
    region = Region.of(network, ball.take(every), layers)

    def margins(relaxed: Region, errors: Sequence[Tensor]) -> Tensor:
        return (rows[0] * above(network, relaxed.depth, relaxed.point(errors))).sum()

    with torch.enable_grad():
        middle = [torch.zeros_like(error).requires_grad_() for error in region.errors()]
        worst = [-gradient.sign() for gradient in torch.autograd.grad(margins(region, middle), middle)]
        slopes = [relaxation.slope.clone().requires_grad_() for relaxation in region.relaxations]
        tilted = [_tilted(slope, bounds) for slope, bounds in zip(slopes, layers, strict=True)]
        gradients = torch.autograd.grad(margins(replace(region, relaxations=tilted), worst), slopes)
    return [gradient * bounds.unstable for gradient, bounds in zip(gradients, layers, strict=True)]


def _tilted(slope: Tensor, bounds: Bounds) -> Relaxation:
    """The relaxation of smallest area, whose slope is given and may be differentiated."""
    gap = (-slope * bounds.lower + (1 - slope) * bounds.upper) / 2
    return Relaxation(slope, torch.where(bounds.unstable, gap, torch.zeros_like(gap)))
