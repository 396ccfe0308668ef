"""The KW dual and CROWN with explicit matrices, for one point: independent references."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.balls import Ball, vector_norm
from robustcli.bounds.crown import crown, unknown
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network
from robustcli.norms import dual as dual_exponent
from tests.bounds.test_rounding_extremes import maps


def alone(network: Network, ball: Ball, rows: Tensor, outward: bool = True) -> MarginBounds:
    """CROWN that does not start from the dual."""
    return crown(network, ball, rows, known=unknown(network, ball), outward=outward)


def dense_dual(network: Network, x: Tensor, eps: float, p: float, rows: Tensor) -> Tensor:
    """003 Algorithm 1 with explicit matrices, for one point, without box: an independent reference."""
    weights, biases = [], []
    for block in network.blocks:
        eye = torch.eye(math.prod(block.in_shape), dtype=x.dtype).view(-1, *block.in_shape)
        weights.append(block.linear(eye).flatten(1).T)
        biases.append(block.offset().flatten())
    q = dual_exponent(p)
    bounds: list[tuple[Tensor, Tensor]] = []

    def lower(c: Tensor, upto: int) -> Tensor:
        value, nu = c @ biases[upto], c @ weights[upto]
        for layer in range(upto - 1, -1, -1):
            l, u = bounds[layer]
            unstable = (l < 0) & (u > 0)
            slope = torch.where(unstable, u / torch.where(unstable, u - l, 1.0), (l >= 0).to(l.dtype))
            value = value + (nu.clamp(max=0) * torch.where(unstable, -slope * l, 0.0)).sum(-1)
            nu = nu * slope
            value, nu = value + nu @ biases[layer], nu @ weights[layer]
        return value + nu @ x.flatten() - eps * vector_norm(nu, q)

    for layer in range(len(weights) - 1):
        eye = torch.eye(len(biases[layer]), dtype=x.dtype)
        bounds.append((lower(eye, layer), -lower(-eye, layer)))
    return lower(rows, len(weights) - 1)


def dense_crown(network: Network, ball: Ball, rows: Tensor) -> tuple[list[Bounds], Tensor]:
    """CROWN with explicit matrices for one ball, every unit with rows of its own: an independent reference."""
    pairs = maps(network)
    layers: list[Bounds] = []

    def least(c: Tensor, upto: int) -> Tensor:
        value, row = c @ pairs[upto][1], c @ pairs[upto][0]
        for layer in range(upto - 1, -1, -1):
            l, u = layers[layer].lower, layers[layer].upper
            matrix, offset = torch.zeros_like(row), torch.zeros_like(row)
            for j in range(row.shape[1]):
                for r in range(row.shape[0]):
                    if u[j] <= 0:
                        continue
                    if l[j] >= 0:
                        matrix[r, j] = row[r, j]
                    elif row[r, j] >= 0:
                        matrix[r, j] = row[r, j] if u[j] >= -l[j] else 0.0
                    else:
                        matrix[r, j] = row[r, j] * u[j] / (u[j] - l[j])
                        offset[r, j] = -row[r, j] * u[j] * l[j] / (u[j] - l[j])
            value = value + offset.sum(1) + matrix @ pairs[layer][1]
            row = matrix @ pairs[layer][0]
        return value + ball.minimum(row.view(1, -1, *network.input_shape))[0]

    for layer in range(len(pairs) - 1):
        eye = torch.eye(len(pairs[layer][1]), dtype=torch.float64)
        layers.append(Bounds(least(eye, layer), -least(-eye, layer)))
    return layers, least(rows, len(pairs) - 1)
