"""How far rounding can move the values and rows of a linear region, so that certified distances are rounded safely.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3): a sum of n products is off
by at most n u / (1 - n u) times the sum of absolute values, in any order. A unit whose sign is in doubt gets distance 0
(its value is within its error), so every pattern a positive distance rests on is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.network import Block, Network
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
    network = region.network
    rows_up = row_errors(network, region.masks, points)
    values_up = _value_errors(network, points)
    return Errors(
        values=_hidden(values_up, points),
        margins=_pairs(_differences(values_up[-1], region.values[-1]), labels),
        rows=_hidden(rows_up, points),
        decisions=_pairs(rows_up[-1], labels),
    )


@torch.no_grad()
def margin_errors(network: Network, points: Tensor, labels: Tensor) -> Tensor:
    """Errors of f_y - f_s, s != y ascending, in a forward pass at points [B, *input_shape], [B, K-1]."""
    return _pairs(_differences(_value_errors(network, points)[-1], network(points)), labels)


def row_errors(network: Network, masks: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """Errors of the rows of every block in the l1 norm, [B, *block.out_shape]; 0 exactly for rows that are zero.

    Products below the number range are lost whole, each at most `tiny`; what is lost goes on through the layers above,
    and squares lose as much again when a norm is taken.

    Args:
        masks: patterns of the hidden layers, [B, *block.out_shape].
        like: points [B, *input_shape].
    """
    dtype, inputs = like.dtype, like[0].numel()
    tiny, depth, errors = torch.finfo(dtype).tiny, 0, []
    total = torch.ones_like(like)  # sums of absolute values along all paths, over all input coordinates
    lost, connected = torch.zeros_like(like), torch.ones_like(like)
    for position, block in enumerate(network.blocks):
        if position:
            mask = masks[position - 1]
            total, lost, connected = total * mask, lost * mask, connected * mask
        total, lost, connected = block.magnitude(total), block.magnitude(lost), reached(block, connected)
        depth += block.roundings + SPARE
        lost = lost + connected * (2 * depth * inputs * tiny)
        errors.append(gamma(depth, dtype) * total + 2 * lost + connected * math.sqrt(inputs * tiny))
    return errors


def reached(block: Block, connected: Tensor) -> Tensor:
    """Which outputs of a block hang on any of the inputs marked 1, by weights that are not zero: 0 and 1."""
    for layer in block.layers:
        connected = (layer.magnitude(connected) > 0).to(connected.dtype)
    return connected


def _value_errors(network: Network, points: Tensor) -> list[Tensor]:
    """Errors of every block's outputs, carried layer by layer beside the values."""
    errors, error, x = [], torch.zeros_like(points), points
    for position, block in enumerate(network.blocks):
        if position:
            error = torch.where(x > -error, error, 0.0)  # surely inactive units carry none
            x = x.relu()
        for layer in block.layers:
            constant = layer.offset_size(x[:1])
            roundings = layer.fan_in + SPARE
            fresh = gamma(roundings, x.dtype) * (layer.magnitude(x.abs() + error) + constant)
            fresh = fresh + 2 * roundings * torch.finfo(x.dtype).tiny
            error = layer.magnitude(error) + fresh
            x = layer(x)
        errors.append(error)
    return errors


def _differences(errors: Tensor, logits: Tensor) -> Tensor:
    """Errors of the logits that cover those of their differences too."""
    return errors + gamma(SPARE, logits.dtype) * logits.abs()


def _hidden(errors: list[Tensor], points: Tensor) -> Tensor:
    parts = [error.flatten(1) for error in errors[:-1]]
    return torch.cat(parts, 1) if parts else points.new_zeros(len(points), 0)


def _pairs(errors: Tensor, labels: Tensor) -> Tensor:
    """error_y + error_s for every s != y, s ascending: [B, K] -> [B, K-1]."""
    classes = torch.arange(errors.shape[1], device=labels.device)
    others = errors[classes != labels.unsqueeze(1)].view(len(labels), -1)
    return others + errors.gather(1, labels.unsqueeze(1))
