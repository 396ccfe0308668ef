"""Norms of the rows V_j^(l) of all hidden units on each point's region, without gradients.

The first layer's norms are the same for every point. Above it, plain stacks of convolutions, then dense layers are
pushed forwards (`regions.forwards`), some images at a time; in other networks (pooling, two layers without a ReLU
between) every unit is pulled back from its layer. Norms of chosen rows and of decision rows: `regions.chosen_norms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.regions.affine import Region, adjoint
from robustcli.regions.conventions import EXACT, Convention
from robustcli.regions.effective import Convolution, Dense, effective
from robustcli.regions.first_layer import row_norms
from robustcli.regions.forwards import Forwards, Norms, Sums

MEMORY = 2**26  # bytes of the arrays of one piece: what the caches hold, measured (benchmarks/README.md)

UNITS = 16  # pulled back at once


@torch.no_grad()
def hidden_norms(
    region: Region,
    qs: Sequence[float],
    *,
    convention: Convention = EXACT,
    products: torch.dtype | None = None,
    memory: int = MEMORY,
) -> Norms:
    """||V_j^(l)||_q of every hidden unit, numbered layer after layer: one tensor [B, N] per exponent.

    Args:
        region: regions of B points.
        qs: exponents of the norms.
        convention: of training. The stabiliser is stood for by a floor: entries count at least this much (the two
            differ for entries within it).
        products: precision in which dense layers are multiplied (None: that of the region). Only for choosing units.
        memory: bytes for the arrays of one piece (one image is the smallest piece).
    """
    network, like = region.network, region.values[-1]
    if not network.hidden_units:
        return [like.new_zeros(region.size, 0) for _ in qs]
    walk = walker(network, Sums(qs, convention.stabiliser, math.prod(network.input_shape)), products or like.dtype)
    first = [row_norms(network.blocks[0], q, full_filter=convention.full_filter).flatten() for q in qs]
    pieces: list[list[Tensor]] = [[] for _ in qs]
    step = max(1, memory // (walk.numbers * like.element_size()))
    for start in range(0, region.size, step):
        masks = [mask[start : start + step] for mask in region.masks]
        layers = walk(masks)
        for index, piece in enumerate(pieces):
            piece.append(torch.cat([first[index].expand(len(masks[0]), -1), *(norms[index] for norms in layers)], 1))
    return [torch.cat(piece) for piece in pieces]


class Walk(Protocol):
    """One pass over the hidden layers for some images."""

    numbers: int
    """How many numbers it keeps for one image."""

    def __call__(self, masks: Sequence[Tensor]) -> list[Norms]:
        """From their patterns: norms [n, units] per exponent of each hidden layer above the first."""
        ...


def walker(network: Network, sums: Sums, products: torch.dtype) -> Walk:
    """The cheapest pass the network's layers allow."""
    stack = [effective(block) for block in network.blocks[:-1]]
    convolutions = [layer for layer in stack if isinstance(layer, Convolution)]
    dense = [layer for layer in stack if isinstance(layer, Dense)]
    if stack == [*convolutions, *dense] and all(layer.overlaps for layer in convolutions):
        return Forwards(convolutions, dense, sums, products)
    return Backwards(network, sums)


class Backwards:
    """V of every unit pulled back from its layer: any stack of layers."""

    def __init__(self, network: Network, sums: Sums) -> None:
        self.blocks, self.sums = network.blocks[:-1], sums
        self.numbers = 3 * UNITS * max(sums.inputs, *(block.units for block in self.blocks))

    def __call__(self, masks: Sequence[Tensor]) -> list[Norms]:
        return [self._layer(position, masks) for position in range(1, len(self.blocks))]

    def _layer(self, position: int, masks: Sequence[Tensor]) -> Norms:
        units = range(0, self.blocks[position].units, UNITS)
        pieces = [self.sums.whole(self._rows(position, masks, slice(at, at + UNITS))) for at in units]
        return [torch.cat(column, 1) for column in zip(*pieces, strict=True)]

    def _rows(self, position: int, masks: Sequence[Tensor], units: slice) -> Tensor:
        """V of some outputs of the block at `position`: [n, units, d]."""
        block = self.blocks[position]
        one_hot = torch.eye(block.units, dtype=masks[0].dtype, device=masks[0].device)[units]
        rows = adjoint(block, one_hot.view(1, -1, *block.out_shape))
        for below in reversed(range(position)):
            rows = adjoint(self.blocks[below], rows * masks[below].unsqueeze(1))
        return rows.flatten(2)
