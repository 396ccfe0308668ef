"""Exact norms of the rows of one affine block, the same for every point.

For a convolution the row of a unit is its filter, cut where the kernel hangs over the zero-padded border: at output row
r and column c the entry (a, b) of the kernel counts when r s - p + a and c s - p + b lie inside the image. Rows and
columns separate, so all positions come from a few small contractions. (The code of 000 takes the full filter norm
everywhere, which makes distances at the border too small.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.networks.network import Block
from robustcli.regions.effective import Convolution, Dense, effective

BASIS_CHUNK = 512


def row_norms(block: Block, q: float, *, full_filter: bool = False) -> Tensor:
    """||W_j||_q for every output j of the block, differentiable in the weights: [*block.out_shape].

    Blocks of one convolution or linear layer, with scaling and flattening layers around it, have closed forms; any
    other block is evaluated on the unit vectors of its outputs. For `full_filter` see `conventions.Convention`.
    """
    layer = effective(block)
    if isinstance(layer, Dense):
        return vector_norms(layer.weight, q).view(block.out_shape)
    if layer is None:
        return generic_norms(block, q)
    if full_filter:
        return vector_norms(layer.weight.flatten(1), q).view(-1, 1, 1).expand(block.out_shape)
    return _conv_norms(layer, q)


def generic_norms(block: Block, q: float) -> Tensor:
    """The same for any block, from the adjoint of its output basis, in chunks."""
    parts = []
    like = next(weight for layer in block.layers for weight in layer.state_dict(keep_vars=True).values())
    for start in range(0, block.units, BASIS_CHUNK):
        index = torch.arange(start, min(start + BASIS_CHUNK, block.units), device=like.device)
        basis = like.new_zeros(len(index), block.units).scatter_(1, index.unsqueeze(1), 1.0)
        parts.append(vector_norms(block.adjoint(basis.view(-1, *block.out_shape)).flatten(1), q))
    return torch.cat(parts).view(block.out_shape)


def vector_norms(rows: Tensor, q: float) -> Tensor:
    """||row||_q over the last dimension; a zero row has norm 0 and gradient 0 (never NaN)."""
    return root(power_sum(rows, q, -1), q)


def power_sum(rows: Tensor, q: float, dim: int) -> Tensor:
    """What accumulates over pieces of a row: sum |v| for q = 1, sum v^2 for q = 2, max |v| for q = inf, else
    log sum |v|^q (in logarithms, since |v|^q leaves the range of floats). Sums of bfloat16 are float32."""
    return size_sum(rows if q == 2 else rows.abs(), q, dim)


def size_sum(sizes: Tensor, q: float, dim: int) -> Tensor:
    """The same from the sizes |v|."""
    wide = torch.float32 if sizes.dtype == torch.bfloat16 else sizes.dtype
    if q == 1:
        return sizes.sum(dim, dtype=wide)
    if q == 2:
        return (sizes * sizes).sum(dim, dtype=wide)
    if math.isinf(q):
        return sizes.amax(dim).to(wide)
    return torch.logsumexp(q * sizes.log(), dim)


def combine(sums: Tensor, q: float, dim: int) -> Tensor:
    """The power sums of whole rows from those of their pieces, which lie along a dimension."""
    if q in (1, 2):
        return sums.sum(dim)
    return sums.amax(dim) if math.isinf(q) else torch.logsumexp(sums, dim)


def root(sums: Tensor, q: float) -> Tensor:
    """The norm from the power sum, with gradient 0 where the row is zero."""
    if q == 1 or math.isinf(q):
        return sums
    if q == 2:
        positive = sums > 0
        return torch.where(positive, torch.where(positive, sums, 1.0).sqrt(), 0.0)
    return (sums / q).exp()


def _conv_norms(layer: Convolution, q: float) -> Tensor:
    """Norms of the border-cut filters: [O, rows, columns]."""
    weight = layer.weight
    _, height, width = layer.in_shape
    _, rows, columns = layer.out_shape
    inside_rows = _inside(layer, rows, height, weight)
    inside_columns = _inside(layer, columns, width, weight)
    if math.isinf(q):
        largest = weight.abs().amax(1)
        over_rows = (largest.unsqueeze(1) * inside_rows[:, :, None]).amax(2)
        return (over_rows.unsqueeze(2) * inside_columns).amax(-1)
    if q not in (1, 2):  # in logarithms, see `power_sum`
        logs = torch.logsumexp(q * weight.abs().log(), 1)
        over_rows = torch.logsumexp(logs.unsqueeze(1) + inside_rows.log()[:, :, None], 2)
        return root(torch.logsumexp(over_rows.unsqueeze(2) + inside_columns.log(), -1), q)
    powers = weight.abs() if q == 1 else weight * weight
    return root(torch.einsum("oab,ra,cb->orc", powers.sum(1), inside_rows, inside_columns), q)


def _inside(layer: Convolution, outputs: int, side: int, like: Tensor) -> Tensor:
    """1 where entry a of the kernel at output position r meets the image, else 0: [outputs, kernel]."""
    start = torch.arange(outputs, device=like.device) * layer.stride - layer.padding
    at = start.unsqueeze(1) + torch.arange(layer.kernel, device=like.device)
    return ((at >= 0) & (at < side)).to(like.dtype)
