"""Norms of the rows V_j^(l) of all hidden units, and of the decision rows V_y - V_s, on each point's region.

Without gradients, for all rows at once, some images at a time. The first layer's norms are the same for every point.
Above it V^(l+1) = W^(l+1) D^(l) V^(l) is pushed forwards: through convolutions on windows (`regions.windows`), through
dense layers as rows over the whole input. Networks that are no plain stack of convolutions, then dense layers (pooling,
two layers without a ReLU between) are pulled back unit by unit instead. Norms with gradients, for chosen rows, are in
`regions.chosen_norms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.regions.affine import Region, adjoint
from robustcli.regions.effective import Convolution, Dense, effective
from robustcli.regions.first_layer import combine, power_sum, root, row_norms
from robustcli.regions.windows import Cells, FirstDense, Geometry, NextConvolution, SecondConvolution, first_cells

MEMORY = 2**26  # bytes of the arrays of one piece: what the caches hold, measured (benchmarks/README.md)

UNITS = 16  # pulled back at once where nothing better is known

Norms = list[Tensor]
"""One tensor per exponent."""


def hidden_norms(region: Region, qs: Sequence[float], memory: int = MEMORY) -> Norms:
    """||V_j^(l)||_q of every hidden unit, numbered layer after layer: one tensor [B, N] per exponent."""
    return all_norms(region, None, qs, memory=memory)[0]


def decision_norms(region: Region, labels: Tensor, qs: Sequence[float], memory: int = MEMORY) -> Norms:
    """||V_y^(L+1) - V_s^(L+1)||_q for every s != y, s ascending: one tensor [B, K-1] per exponent."""
    return all_norms(region, labels, qs, memory=memory)[1]


@torch.no_grad()
def all_norms(
    region: Region, labels: Tensor | None, qs: Sequence[float], *, floor: float = 0.0, memory: int = MEMORY
) -> tuple[Norms, Norms]:
    """Norms of all hidden rows and of the decision rows.

    Args:
        region: regions of B points.
        labels: [B], or None: then no decision norms.
        qs: exponents of the norms.
        floor: entries count at least this much, those beyond a unit's reach too (0: exact norms). It stands for the
            stabiliser of training where units are only chosen: the two differ for entries inside (-floor, 0).
        memory: bytes for the arrays of one piece (one image is the smallest piece).
    Returns:
        hidden norms, [B, N] per exponent, units numbered layer after layer;
        decision norms, [B, K-1] per exponent, s ascending (none without labels).
    """
    network = region.network
    sums = Sums(floor, math.prod(network.input_shape))
    if labels is None and not network.hidden_units:
        return [region.values[0].new_zeros(region.size, 0) for _ in qs], []
    walk = walker(network, qs, sums, logits=labels is not None)
    first = [row_norms(network.blocks[0], q).flatten() for q in qs] if network.hidden_units else []
    hidden: list[list[Tensor]] = [[] for _ in qs]
    decisions: list[list[Tensor]] = [[] for _ in qs]
    step = max(1, memory // (walk.numbers * region.values[0].element_size()))
    for start in range(0, region.size, step):
        part = slice(start, start + step)
        masks = [mask[part] for mask in region.masks]
        layers, logits = walk(masks)
        size = len(region.values[0][part])
        for index in range(len(qs)):
            parts = [first[index].expand(size, -1)] if first else []
            own = [*parts, *(norms[index] for norms in layers)]
            hidden[index].append(torch.cat(own, 1) if own else region.values[0].new_zeros(size, 0))
        if labels is not None:
            for column, q in zip(decisions, qs, strict=True):
                rows = differences(logits.expand(size, -1, -1), labels[part])
                column.append(sums.whole(rows, q))
    empty: Norms = []
    return [torch.cat(c) for c in hidden], [torch.cat(c) for c in decisions] if labels is not None else empty


def differences(rows: Tensor, labels: Tensor) -> Tensor:
    """rows_y - rows_s for every s != y, s ascending: [n, K, d] -> [n, K-1, d]."""
    count, classes = rows.shape[:2]
    everyone = torch.arange(classes, device=labels.device).expand(count, classes)
    others = everyone[everyone != labels.unsqueeze(1)].view(count, classes - 1)
    images = torch.arange(count, device=labels.device)
    return rows[images, labels].unsqueeze(1) - rows[images.unsqueeze(1), others]


@dataclass(frozen=True)
class Sums:
    """Power sums of entries raised to `floor` in size, for rows of `inputs` entries (see `all_norms`)."""

    floor: float
    inputs: int

    def __call__(self, rows: Tensor, q: float, dim: int) -> Tensor:
        """Over a dimension of stored entries (see `first_layer.power_sum`)."""
        return power_sum(rows.abs().clamp_(min=self.floor) if self.floor else rows, q, dim)

    def whole(self, rows: Tensor, q: float) -> Tensor:
        """Norms of rows [..., d]."""
        return self.norm(self(rows, q, -1), q, rows.shape[-1])

    def norm(self, sums: Tensor, q: float, stored: int) -> Tensor:
        """Norms from the power sums of the stored entries (zeros beyond the image among them)."""
        absent = self.inputs - stored
        if self.floor == 0 or absent == 0:
            return root(sums, q)
        if math.isinf(q):
            return sums.clamp(min=self.floor)
        if q in (1, 2):
            return root(sums + absent * self.floor**q, q)
        return root((sums.exp() + absent * self.floor**q).log(), q)


class Walk(Protocol):
    """One pass over the layers for some images."""

    numbers: int
    """How many numbers it keeps for one image."""

    def __call__(self, masks: Sequence[Tensor]) -> tuple[list[Norms], Tensor]:
        """Norms [n, units] per exponent of each hidden layer above the first, and V of the logits [n or 1, K, d]
        (columns in any order, with zero columns beyond the image; empty when not asked for)."""
        ...


def walker(network: Network, qs: Sequence[float], sums: Sums, *, logits: bool) -> Walk:
    """The cheapest pass the network's layers allow."""
    stack = [effective(block) for block in network.blocks]
    convolutions = [layer for layer in stack if isinstance(layer, Convolution)]
    dense = [layer for layer in stack if isinstance(layer, Dense)]
    if stack == [*convolutions, *dense]:
        return Forwards(convolutions, dense if logits else dense[:-1], qs, sums, logits)
    return Backwards(network, qs, sums, logits)


class Forwards:
    """V pushed from the input to the logits.

    Args:
        convolutions, dense: the layers in order.
        logits: whether the last dense layer gives the logits; else it is hidden like the others.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        dense: Sequence[Dense],
        qs: Sequence[float],
        sums: Sums,
        logits: bool,
    ) -> None:
        self.qs, self.sums = qs, sums
        self.blocks = len(convolutions) + len(dense)
        self.hidden = self.blocks - logits
        self.maps: list[SecondConvolution | NextConvolution] = []
        self.unfold: FirstDense | None = None
        self.filters: Cells = {}
        self.dense = list(dense)
        if convolutions:
            geometry = Geometry.first(convolutions[0])
            self.filters = first_cells(convolutions[0])
            for place, layer in enumerate(convolutions[1:]):
                above = NextConvolution(geometry, layer) if place else SecondConvolution(convolutions[0], layer)
                self.maps.append(above)
                geometry = above.geometry
            if dense:
                self.unfold = FirstDense(geometry, self.dense.pop(0))
        windows = [math.prod(step.layer.out_shape) * step.geometry.size for step in self.maps]
        widest = max([layer.weight.shape[0] for layer in dense], default=1)
        self.numbers = 3 * sum(sorted(windows)[-2:]) + 3 * sums.inputs * widest

    def __call__(self, masks: Sequence[Tensor]) -> tuple[list[Norms], Tensor]:
        found: list[Norms] = []
        rest = list(self.dense)
        rows = self._through_windows(masks, found) if self.filters else rest.pop(0).weight.unsqueeze(0)
        for layer, block in zip(rest, range(self.blocks - len(rest), self.blocks), strict=True):
            active = layer.weight * masks[block - 1].flatten(1).unsqueeze(1)
            if len(rows) == 1:  # V of the first layer, the same for every image
                rows = (active.flatten(0, 1) @ rows[0]).view(*active.shape[:2], -1)
            else:
                rows = torch.bmm(active, rows)
            if block < self.hidden:
                found.append([self.sums.whole(rows, q) for q in self.qs])
        return found, rows

    def _through_windows(self, masks: Sequence[Tensor], found: list[Norms]) -> Tensor:
        """Rows of the first dense layer [n, units, d], norms of all layers up to it added to `found`."""
        cells, images = self.filters, len(masks[0])
        room = None if self.unfold is None else self.unfold.room(images)
        for place, step in enumerate(self.maps):
            windows = WindowSums(step.geometry, self.qs, self.sums)
            above: Cells = {}
            for cell, value in step(cells, masks[place]):
                windows.add(value)
                if place + 1 < len(self.maps):
                    above[cell] = value
                elif self.unfold is not None and room is not None:
                    self.unfold.place(room, cell, value, masks[place + 1])
            cells = above
            found.append(windows.norms())
        if self.unfold is None or room is None:
            return masks[0].new_zeros(images, 0, 0)
        if not self.maps:
            for cell, value in cells.items():
                self.unfold.place(room, cell, value, masks[0])
        parts = self.unfold(room)
        if len(self.maps) + 1 < self.hidden:
            found.append(self._norms(parts))
        return torch.cat([part.transpose(0, 1).flatten(1, 2) for part in parts], 1).transpose(1, 2)

    def _norms(self, parts: Sequence[Tensor]) -> Norms:
        """Norms from rows [cells, n, pixels, units] in several parts."""
        stored = sum(part.shape[0] * part.shape[2] for part in parts)
        norms = []
        for q in self.qs:
            pieces = torch.stack([combine(self.sums(part, q, 2), q, 0) for part in parts])
            norms.append(self.sums.norm(combine(pieces, q, 0), q, stored))
        return norms


class WindowSums:
    """Norms of the windows of one layer, gathered cell by cell."""

    def __init__(self, geometry: Geometry, qs: Sequence[float], sums: Sums) -> None:
        self.geometry, self.qs, self.sums = geometry, qs, sums
        self.found: Norms = []

    def add(self, cell: Tensor) -> None:
        """V on one cell, [rows, columns, n, pixels, channels]."""
        new = [self.sums(cell, q, 3) for q in self.qs]
        if self.found:
            new = [combine(torch.stack(pair), q, 0) for *pair, q in zip(self.found, new, self.qs, strict=True)]
        self.found = new

    def norms(self) -> Norms:
        """[n, units] per exponent."""
        whole = [self.sums.norm(sums, q, self.geometry.size) for sums, q in zip(self.found, self.qs, strict=True)]
        return [norm.permute(2, 3, 0, 1).flatten(1) for norm in whole]


class Backwards:
    """V of every unit pulled back from its layer: any stack of layers."""

    def __init__(self, network: Network, qs: Sequence[float], sums: Sums, logits: bool) -> None:
        self.blocks, self.qs, self.sums, self.logits = network.blocks, qs, sums, logits
        self.numbers = 3 * (sum(block.units for block in self.blocks) + sums.inputs)

    def __call__(self, masks: Sequence[Tensor]) -> tuple[list[Norms], Tensor]:
        hidden = len(self.blocks) - 1
        found = [self._layer(position, masks) for position in range(1, hidden)]
        logits = self._rows(hidden, masks, slice(None)) if self.logits else masks[0].new_zeros(len(masks[0]), 0, 0)
        return found, logits

    def _layer(self, position: int, masks: Sequence[Tensor]) -> Norms:
        norms: list[list[Tensor]] = [[] for _ in self.qs]
        for start in range(0, self.blocks[position].units, UNITS):
            rows = self._rows(position, masks, slice(start, start + UNITS))
            for column, q in zip(norms, self.qs, strict=True):
                column.append(self.sums.whole(rows, q))
        return [torch.cat(column, 1) for column in norms]

    def _rows(self, position: int, masks: Sequence[Tensor], units: slice) -> Tensor:
        """V of some outputs of the block at `position`: [n, units, d]."""
        block = self.blocks[position]
        like = masks[0] if masks else next(block.layers[0].parameters())
        one_hot = torch.eye(block.units, dtype=like.dtype, device=like.device)[units]
        rows = adjoint(block, one_hot.view(1, -1, *block.out_shape))
        for below in reversed(range(position)):
            rows = adjoint(self.blocks[below], rows * masks[below].unsqueeze(1))
        return rows.flatten(2)
