"""Euclidean balls that hold the pre-activations of each layer over an l2 ball, by upper bounds on spectral norms.

The first layer stretches the ball by || W ||_2 at most, every further one likewise, for the ReLU is 1-Lipschitz.

Power iteration approaches a norm from below and proves nothing. Here lambda_max of the smaller Gram matrix is computed
in float64 and moved outward by what its entries and the eigenvalue solver can round (Higham, section 3.1; the solver
is backward stable); layers too large for that take a bound on their norm instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.types import Bounds
from robustcli.networks.layers import Affine, AvgPool2d, Conv2d, Diagonal, Flatten
from robustcli.networks.network import Block, Network

LARGEST_GRAM = 2048  # rows of a Gram matrix: about two seconds
UNIT = torch.finfo(torch.float64).eps / 2

_known: dict[str, list[float]] = {}


@dataclass(frozen=True)
class Around:
    """Balls that hold the pre-activations of every hidden layer over each input ball.

    Args:
        centers: [B, *shape] a layer.
        radii: [B] a layer.
    """

    centers: list[Tensor]
    radii: list[Tensor]

    @classmethod
    def of(cls, network: Network, ball: Ball) -> Around:
        """For l2 balls. The radius also covers what the centre's own forward pass rounds."""
        norms, errors = spectral_norms(network), rounding_errors(network, ball)
        centers = network.pre_activations(ball.center)[:-1]
        unit = torch.finfo(ball.eps.dtype).eps / 2
        radii, grown = [], ball.eps
        for norm, error, center in zip(norms, errors, centers, strict=False):
            grown = grown * norm * (1 + 4 * unit)
            size = error.expand_as(center).flatten(1).norm(dim=1)
            radius = grown * (1 + 4 * unit) + size * (1 + 2 * math.prod(center.shape[1:]) * unit)
            radii.append(radius.nan_to_num(nan=math.inf, posinf=math.inf))
        return cls(centers, radii)

    def take(self, images: slice) -> Around:
        """The balls of some images."""
        return Around([each[images] for each in self.centers], [each[images] for each in self.radii])

    def float(self) -> Around:
        """The same in float32, for the search."""
        return Around([each.float() for each in self.centers], [each.float() for each in self.radii])

    def bounds(self, layer: int) -> Bounds:
        """center -+ radius of a hidden layer."""
        center = self.centers[layer]
        unit = torch.finfo(center.dtype).eps
        radius = self.radii[layer].view(-1, *[1] * (center.dim() - 1))
        slack = unit * (center.abs() + radius)
        return Bounds(center - radius - slack, center + radius + slack)


def spectral_norms(network: Network) -> list[float]:
    """Upper bounds on || W ||_2 of every block, found once per network."""
    key = network.weights_hash()
    if key not in _known:
        _known[key] = [block_norm(block) for block in network.double().blocks]
    return _known[key]


def block_norm(block: Block) -> float:
    """An upper bound on the norm of a float64 block: of all its layers together, or their product."""
    product = math.prod(layer_norm(layer) for layer in block.layers) * (1 + 4 * len(block.layers) * UNIT)
    if block.mixing > 1 or min(block.units, math.prod(block.in_shape)) > LARGEST_GRAM:
        return product
    return min(product, gram_norm(block))


def layer_norm(layer: Affine) -> float:
    """An upper bound on the norm of one float64 layer."""
    if isinstance(layer, Flatten):
        return 1.0
    if isinstance(layer, Diagonal):
        scale, _ = layer.scale_shift()
        return float(scale.abs().max()) * (1 + 8 * UNIT)
    if min(math.prod(layer.in_shape), math.prod(layer.out_shape)) <= LARGEST_GRAM:
        return gram_norm(Block([layer]))
    if isinstance(layer, Conv2d):
        # An input lies in at most ceil(k / s)^2 patches, so the patches of x have at most that many times its square.
        return math.ceil(layer.kernel / layer.stride) * matrix_norm(layer.weight.flatten(1), layer.fan_in)
    if isinstance(layer, AvgPool2d):
        return math.ceil(layer.kernel / layer.stride) / layer.kernel * (1 + 8 * UNIT)
    across = layer.magnitude(torch.ones(1, *layer.in_shape, dtype=torch.float64)).max()
    weight = next(layer.parameters()).abs()
    down = weight.sum(0).max()  # ||W||_2^2 <= ||W||_1 ||W||_inf
    return float((across * down).sqrt()) * (1 + 2 * sum(weight.shape) * UNIT)


def gram_norm(block: Block) -> float:
    """An upper bound on the norm of a block with at most one mixing layer, by its matrix."""
    wide = math.prod(block.in_shape) > block.units
    shape, apply = (block.out_shape, block.adjoint) if wide else (block.in_shape, block.linear)
    device = next((weight.device for layer in block.layers for weight in layer.state_dict().values()), None)
    identity = torch.eye(math.prod(shape), dtype=torch.float64, device=device)
    return matrix_norm(apply(identity.view(-1, *shape)).flatten(1), block.roundings)


def matrix_norm(matrix: Tensor, roundings: int) -> float:
    """An upper bound on the norm of a float64 matrix whose entries have gone through so many roundings."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows, columns = matrix.shape
    largest = float(matrix.abs().max())
    if not 0 < largest < math.inf:
        return largest if largest == 0 else math.inf
    scale = 2.0 ** math.floor(math.log2(largest))  # squares would leave the number range
    matrix = matrix / scale
    top = float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1])
    # Rounding of the entries, of their products and of the solver: |W| |W|^T and W W^T are at most ||W||_F^2 in norm.
    slack = 2 * (columns + 16 * rows + 2 * roundings) * UNIT * float(matrix.square().sum())
    return math.sqrt(max(top, 0.0) + slack) * (1 + 4 * UNIT) * scale
