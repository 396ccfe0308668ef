"""How far rounding can move the values and rows of a linear region, so that certified distances are rounded safely.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3): a sum of n products is off
by at most n u / (1 - n u) times the sum of absolute values, in any order. A unit whose sign is in doubt gets distance 0
(its value is within its error), so every pattern a positive distance rests on is the true one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.regions.affine import Region

SPARE = 8  # roundings per layer beyond the products: bias, scale, the estimate itself


@dataclass(frozen=True)
class Errors:
    """Bounds on rounding errors at B points.

    Args:
        values: of the hidden pre-activations, [B, N].
        margins: of f_y - f_s, [B, K-1].
        rows: of V_j in the l1 norm (so in every norm), [B, N]; 0 exactly where the row is zero without rounding.
        decisions: of V_y - V_s in the l1 norm, [B, K-1].
    """

    values: Tensor
    margins: Tensor
    rows: Tensor
    decisions: Tensor


def gamma(roundings: int, dtype: torch.dtype) -> float:
    """Twice n u: covers n u / (1 - n u) and the rounding inside the estimates."""
    return roundings * torch.finfo(dtype).eps


@torch.no_grad()
def region_errors(region: Region, points: Tensor, labels: Tensor) -> Errors:
    """Errors of `region` = Region.of(network, points), margins for these labels."""
    network, dtype = region.network, region.values[0].dtype
    rows_up: list[Tensor] = []
    depth = 0
    total = torch.ones_like(points)  # sums of absolute values along all paths, over all input coordinates
    for position, block in enumerate(network.blocks):
        total = block.magnitude(total if position == 0 else total * region.masks[position - 1])
        depth += block.roundings + SPARE
        rows_up.append(gamma(depth, dtype) * total)
    values_up = _value_errors(network, points)
    return Errors(
        values=_hidden(values_up, points),
        margins=_pairs(values_up[-1] + gamma(SPARE, dtype) * region.values[-1].abs(), labels),
        rows=_hidden(rows_up, points),
        decisions=_pairs(rows_up[-1], labels),
    )


def _value_errors(network: Network, points: Tensor) -> list[Tensor]:
    """Errors of every block's outputs, carried layer by layer beside the values."""
    errors, error, x = [], torch.zeros_like(points), points
    for position, block in enumerate(network.blocks):
        if position:
            error = torch.where(x > -error, error, 0.0)  # surely inactive units carry none
            x = x.relu()
        for layer in block.layers:
            constant = layer.offset_size(x[:1])
            fresh = gamma(layer.fan_in + SPARE, x.dtype) * (layer.magnitude(x.abs() + error) + constant)
            error = layer.magnitude(error) + fresh
            x = layer(x)
        errors.append(error)
    return errors


def _hidden(errors: list[Tensor], points: Tensor) -> Tensor:
    parts = [error.flatten(1) for error in errors[:-1]]
    return torch.cat(parts, 1) if parts else points.new_zeros(len(points), 0)


def _pairs(errors: Tensor, labels: Tensor) -> Tensor:
    """error_y + error_s for every s != y, s ascending: [B, K] -> [B, K-1]."""
    classes = torch.arange(errors.shape[1], device=labels.device)
    others = errors[classes != labels.unsqueeze(1)].view(len(labels), -1)
    return others + errors.gather(1, labels.unsqueeze(1))
