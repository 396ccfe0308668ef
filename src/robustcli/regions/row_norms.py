"""Norms of the rows V_j^(l) of all hidden units, and of the decision rows V_y - V_s, on each point's region.

The first layer's norms do not depend on the point. For the layers above, V^(l) is built in pieces that are reduced to
power sums at once: forwards, by pushing input basis vectors through the masked layers (all units of a layer, some
coordinates), or backwards, by pulling unit rows through the adjoints (some units, all coordinates), whichever takes
fewer multiplications. Pieces are bounded in memory and recomputed in the gradient pass, so memory stays bounded there
too. This is the plain form: every faster kernel must agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustcli.networks.network import Block
from robustcli.regions.affine import Region, adjoint, decision_rows
from robustcli.regions.first_layer import combine, power_sum, root, row_norms

MEMORY = 2**28  # bytes of the intermediate arrays of one piece
COPIES = 3  # arrays alive per layer: values, masked values, their gradient

Stabilise = Callable[[Tensor], Tensor]


def stabiliser(width: float) -> Stabilise:
    """v + width where |v| < width, as in the code of 000 (there 1e-5, for the layers above a first convolution)."""
    if width == 0:
        return lambda rows: rows
    return lambda rows: rows + width * (rows.detach().abs() < width).to(rows.dtype)


def hidden_norms(region: Region, qs: Sequence[float], stabilise: float = 0.0, memory: int = MEMORY) -> list[Tensor]:
    """||V_j^(l)||_q of every hidden unit j, differentiable in the weights.

    Args:
        region: regions of B points.
        qs: exponents of the norms.
        stabilise: width of the stabiliser on the layers above the first (0: exact norms).
        memory: bytes for one piece.
    Returns:
        one tensor [B, N] per exponent, units numbered layer after layer.
    """
    blocks = region.network.blocks
    hidden = len(blocks) - 1
    if not hidden:
        return [region.values[0].new_zeros(region.size, 0) for _ in qs]
    columns = [[row_norms(blocks[0], q).flatten().expand(region.size, -1)] for q in qs]
    split = cheapest_split(blocks[:-1])
    steady = stabiliser(stabilise)
    layers = _forward_norms(region, split, qs, steady, memory)
    layers += [_adjoint_norms(region, position, qs, steady, memory) for position in range(split, hidden)]
    for norms in layers:
        for column, norm in zip(columns, norms, strict=True):
            column.append(norm)
    return [torch.cat(column, 1) for column in columns]


def decision_norms(
    region: Region, labels: Tensor, qs: Sequence[float], stabilise: float = 0.0, memory: int = MEMORY
) -> list[Tensor]:
    """||V_y^(L+1) - V_s^(L+1)||_q for every s != y, s ascending: one tensor [B, K-1] per exponent."""
    blocks = region.network.blocks
    per_image = region.network.classes * (_numbers(blocks) + math.prod(region.network.input_shape))
    count = max(1, memory // (per_image * _bytes(region)))

    def piece(start: int) -> tuple[Tensor, ...]:
        part = region.take(slice(start, start + count))
        rows = decision_rows(part, labels[start : start + count]).flatten(2)
        if stabilise:  # the code of 000 takes |.| first
            rows = stabiliser(stabilise)(rows.abs())
        return tuple(root(power_sum(rows, q, -1), q) for q in qs)

    pieces = [_recomputed(piece, count < region.size, start) for start in range(0, region.size, count)]
    return [torch.cat(column) for column in zip(*pieces, strict=True)]


def products(block: Block) -> int:
    """Multiplications of one application of the block or of its adjoint."""
    return sum(math.prod(layer.out_shape) * layer.fan_in for layer in block.layers)


def cheapest_split(hidden: Sequence[Block]) -> int:
    """How many hidden layers to build forwards (at least the first, whose norms are known); the others go backwards.

    Forwards costs d products of every layer above the first, shared by all of them; backwards costs, for layer l,
    one product of every layer below per unit of l.
    """
    inputs = math.prod(hidden[0].in_shape)
    work = [products(block) for block in hidden]

    def cost(split: int) -> int:
        forwards = inputs * sum(work[1:split])
        return forwards + sum(hidden[above].units * sum(work[:above]) for above in range(split, len(hidden)))

    return min(range(1, len(hidden) + 1), key=cost)


def _forward_norms(
    region: Region, split: int, qs: Sequence[float], steady: Stabilise, memory: int
) -> list[list[Tensor]]:
    """Norms for hidden layers 2..split, one list over qs per layer."""
    if split < 2:
        return []
    blocks = region.network.blocks[:split]
    inputs = math.prod(region.network.input_shape)
    pairs = max(1, memory // (_numbers(blocks) * _bytes(region)))
    parts, several = list(_pieces(region.size, inputs, pairs)), pairs < region.size * inputs

    def piece(images: slice, columns: slice) -> tuple[Tensor, ...]:
        basis = _basis(inputs, columns, region.values[0]).view(-1, *blocks[0].in_shape)
        images_count, sums = len(range(region.size)[images]), []
        # image of the basis under the first layer: the same for every point of the piece
        v = blocks[0].linear(basis).unsqueeze(0)
        for block, mask in zip(blocks[1:], region.masks, strict=False):
            v = v * mask[images].unsqueeze(1)
            v = block.linear(v.flatten(0, 1)).view(images_count, len(basis), *block.out_shape)
            steadied = steady(v.flatten(2))
            sums += [power_sum(steadied, q, 1) for q in qs]
        return tuple(sums)

    rows = _gathered(parts, piece, several, [q for _ in blocks[1:] for q in qs])
    return [rows[start : start + len(qs)] for start in range(0, len(rows), len(qs))]


def _adjoint_norms(region: Region, position: int, qs: Sequence[float], steady: Stabilise, memory: int) -> list[Tensor]:
    """Norms for the hidden layer at `position`, one tensor [B, units] per q."""
    blocks = region.network.blocks[: position + 1]
    numbers = _numbers(blocks[:-1]) + math.prod(region.network.input_shape)
    pairs = max(1, memory // (numbers * _bytes(region)))
    units, several = blocks[-1].units, pairs < region.size * blocks[-1].units
    found: list[list[Tensor]] = [[] for _ in qs]

    def piece(images: slice, chosen: slice) -> tuple[Tensor, ...]:
        one_hot = _basis(units, chosen, region.values[0]).view(1, -1, *blocks[-1].out_shape)
        rows = adjoint(blocks[-1], one_hot)  # the same for every point of the piece
        for below in reversed(range(position)):
            rows = adjoint(blocks[below], rows * region.masks[below][images].unsqueeze(1))
        rows = steady(rows.flatten(2))
        return tuple(root(power_sum(rows, q, -1), q) for q in qs)

    by_images: dict[int, list[tuple[Tensor, ...]]] = {}
    for images, chosen in _pieces(region.size, units, pairs):
        by_images.setdefault(images.start, []).append(_recomputed(piece, several, images, chosen))
    for parts in by_images.values():
        for column, pieces in zip(found, zip(*parts, strict=True), strict=True):
            column.append(torch.cat(pieces, 1))
    return [torch.cat(column) for column in found]


def _gathered(
    parts: Sequence[tuple[slice, slice]], piece: Callable[..., tuple[Tensor, ...]], several: bool, kinds: list[float]
) -> list[Tensor]:
    """Power sums of all pieces combined over coordinates, then stacked over images and rooted."""
    by_images: dict[int, tuple[Tensor, ...]] = {}
    for images, columns in parts:
        sums = _recomputed(piece, several, images, columns)
        before = by_images.get(images.start)
        if before is not None:
            sums = tuple(combine(a, b, q) for a, b, q in zip(before, sums, kinds, strict=True))
        by_images[images.start] = sums
    stacked = [torch.cat(column) for column in zip(*by_images.values(), strict=True)]
    return [root(sums, q) for sums, q in zip(stacked, kinds, strict=True)]


def _recomputed(piece: Callable[..., tuple[Tensor, ...]], several: bool, *where: Any) -> tuple[Tensor, ...]:
    """One piece; when there are several of them, its intermediate arrays are recomputed for the gradient."""
    if several and torch.is_grad_enabled():
        found: tuple[Tensor, ...] = checkpoint(piece, *where, use_reentrant=False, preserve_rng_state=False)
        return found
    return piece(*where)


def _pieces(images: int, others: int, pairs: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles of at most about `pairs` (image, coordinate) pairs: whole images first, else slices of one."""
    step = max(1, min(images, pairs // others))
    width = min(others, max(1, pairs)) if step == 1 else others
    for start in range(0, images, step):
        for left in range(0, others, width):
            yield slice(start, min(start + step, images)), slice(left, min(left + width, others))


def _basis(size: int, chosen: slice, like: Tensor) -> Tensor:
    """Unit vectors `chosen` of `size` dimensions, as rows."""
    index = torch.arange(size, device=like.device)[chosen]
    return like.new_zeros(len(index), size).scatter_(1, index.unsqueeze(1), 1.0)


def _numbers(blocks: Sequence[Block]) -> int:
    """Numbers alive per pushed or pulled vector."""
    return COPIES * sum(block.units for block in blocks)


def _bytes(region: Region) -> int:
    return region.values[0].element_size()
