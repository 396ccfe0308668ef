"""Norms of chosen rows V_j^(l) and V_y - V_s, differentiable in the weights (patterns constant).

Training penalises only the few hyperplanes nearest to a point. Their rows alone are pulled back with gradients, all
that meet at a layer together: as windows behind convolutions, whole behind dense layers (`networks.rows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from robustcli.networks.network import Block, margin_rows
from robustcli.networks.rows import Rows
from robustcli.regions.affine import Region
from robustcli.regions.conventions import EXACT, Convention
from robustcli.regions.effective import Convolution, Dense, effective
from robustcli.regions.first_layer import combine, power_sum, root, row_norms
from robustcli.regions.row_norms import MEMORY
from robustcli.regions.windows import second_rows


@dataclass(frozen=True)
class Hyperplanes:
    """Chosen hidden units of some points, and chosen decision hyperplanes.

    Args:
        image, unit: [n] each; units numbered layer after layer.
        decision_image: [m].
        decisions: functionals of the logits e_y - e_s, [m, K].
    """

    image: Tensor
    unit: Tensor
    decision_image: Tensor
    decisions: Tensor


def chosen_norms(
    region: Region, chosen: Hyperplanes, qs: Sequence[float], convention: Convention = EXACT
) -> tuple[list[Tensor], list[Tensor]]:
    """||V_j||_q of the hidden units and ||V_y - V_s||_q of the decision hyperplanes.

    Args:
        region: regions of B points.
        chosen: n units and m decision hyperplanes.
        qs: exponents of the norms; gradients are finite for 1, 2 and inf.
        convention: of training.
    Returns:
        one tensor [n] and one tensor [m] per exponent.
    """
    count, network, width = len(chosen.unit), region.network, convention.stabiliser
    inputs = math.prod(network.input_shape)
    where, pieces = pulled_back(region, chosen)
    first = (chosen.unit < network.blocks[0].units).nonzero().squeeze(1) if network.hidden_units else where[:0]
    order = torch.cat([first, where]).argsort()
    hidden, decisions = [], []
    for q in qs:
        parts = [_first_norms(region, q, convention)[chosen.unit[first]]] if len(first) else []
        parts += [_norms(strips, own, count, q, width, inputs) for own, strips in pieces]
        norms = torch.cat(parts)[order] if parts else region.values[-1].new_zeros(0)
        hidden.append(norms[:count])
        decisions.append(norms[count:])
    return hidden, decisions


def _first_norms(region: Region, q: float, convention: Convention) -> Tensor:
    return row_norms(region.network.blocks[0], q, full_filter=convention.full_filter).flatten()


@torch.no_grad()
def decision_norms(
    region: Region, labels: Tensor, qs: Sequence[float], convention: Convention = EXACT, memory: int = MEMORY
) -> list[Tensor]:
    """||V_y^(L+1) - V_s^(L+1)||_q for every s != y, s ascending: one tensor [B, K-1] per exponent, without gradients.

    Args:
        region: regions of B points.
        labels: y, [B].
        qs, convention: as in `chosen_norms`.
        memory: bytes for the arrays of one piece (one image is the smallest piece).
    """
    network, like = region.network, region.values[-1]
    others = network.classes - 1
    numbers = 4 * others * max(math.prod(network.input_shape), *(block.units for block in network.blocks))
    step = max(1, memory // (numbers * like.element_size()))
    rows, _ = margin_rows(labels, network.classes, like.dtype)
    none = labels[:0]
    pieces: list[list[Tensor]] = [[] for _ in qs]
    for start in range(0, region.size, step):
        part = rows[start : start + step]
        image = torch.arange(len(part), device=rows.device).repeat_interleave(others)
        chosen = Hyperplanes(none, none, image, part.flatten(0, 1))
        _, found = chosen_norms(region.take(slice(start, start + step)), chosen, qs, convention)
        for piece, norms in zip(pieces, found, strict=True):
            piece.append(norms.view(len(part), others))
    return [torch.cat(piece) for piece in pieces]


def pulled_back(region: Region, chosen: Hyperplanes) -> tuple[Tensor, list[tuple[Tensor, list[Tensor]]]]:
    """Rows of V at the input for all chosen hyperplanes above the first layer.

    Returns:
        which ones they are (n + s for decision hyperplane s), [k]; the same in pieces, with their rows in strips
        [., pixels] (pixels in any order, some that are zero for certain left out).
    """
    blocks, masks = region.network.blocks, region.masks
    image, unit = chosen.image, chosen.unit
    numbers = torch.arange(len(unit) + len(chosen.decision_image), device=image.device)
    whole = numbers[len(unit) :]
    carried = Rows(chosen.decision_image, chosen.decisions, blocks[-1].out_shape)
    ends = list(accumulate(block.units for block in blocks[:-1]))
    windows: list[tuple[Tensor, list[Tensor]]] = []
    stack = [effective(block) for block in blocks]
    for level in reversed(range(len(blocks))):
        block = blocks[level]
        if level < len(blocks) - 1:
            carried = carried.masked(masks[level])
        if level == 0:
            break
        carried = carried.through(block)
        if level == len(blocks) - 1:
            continue
        own = ((unit >= ends[level - 1]) & (unit < ends[level])).nonzero().squeeze(1)
        if not len(own):
            continue
        below = stack[level - 1]
        if level == 1 and isinstance(below, Convolution) and below.overlaps and isinstance(stack[1], Convolution):
            order, strips = second_rows(below, stack[1], masks[0], image[own], unit[own] - ends[0])
            windows.append((own[order], strips))
            continue
        new = _unit_rows(block, stack[level], image[own], unit[own] - ends[level - 1], carried.values.dtype)
        if new.window is not None:
            windows.append((own, [_to_input(region, new, level).values.flatten(1)]))
        else:
            whole = torch.cat([whole, own])
            carried = Rows(torch.cat([carried.image, new.image]), torch.cat([carried.values, new.values]), new.shape)
    layer = stack[0]
    last = (
        layer.adjoint_unordered(carried.values) if isinstance(layer, Convolution) else carried.through(blocks[0]).values
    )
    pieces = [piece for piece in [*windows, (whole, [last.flatten(1)])] if len(piece[0])]
    return torch.cat([own for own, _ in pieces]) if pieces else numbers[:0], pieces


def _unit_rows(
    block: Block, layer: Convolution | Dense | None, image: Tensor, unit: Tensor, dtype: torch.dtype
) -> Rows:
    """Rows of the block for chosen outputs, acting on its input."""
    if isinstance(layer, Dense):
        return Rows(image, layer.weight.index_select(0, unit).view(-1, *layer.in_shape), layer.in_shape)
    return Rows.units(block.out_shape, image, unit, dtype).through(block)


def _to_input(region: Region, rows: Rows, level: int) -> Rows:
    """Rows acting on the input of block `level`, as rows acting on the network's input."""
    for below in reversed(range(level)):
        rows = rows.masked(region.masks[below]).through(region.network.blocks[below])
    return rows.inside()


def _norms(strips: Sequence[Tensor], own: Tensor, count: int, q: float, width: float, inputs: int) -> Tensor:
    """Norms of rows stored in strips [k, pixels]; `own` >= count marks decision rows."""
    sums = [power_sum(_stabilised(strip, own, count, width), q, 1) for strip in strips]
    total = combine(torch.stack(sums), q, 0)
    absent = inputs - sum(strip.shape[1] for strip in strips)
    if width == 0 or absent == 0:
        return root(total, q)
    if q in (1, 2):
        return root(total + absent * width**q, q)
    if math.isinf(q):
        return total.clamp(min=width) if absent > 0 else total
    return root((total.exp() + absent * width**q).log(), q)


def _stabilised(rows: Tensor, own: Tensor, count: int, width: float) -> Tensor:
    if width == 0:
        return rows
    decisions = (own >= count).unsqueeze(1)
    if decisions.any():  # the code of 000 stabilises |V_y - V_s|, but V_j itself
        rows = torch.where(decisions, rows.abs(), rows)
    return rows + width * (rows.detach().abs() < width).to(rows.dtype)
