"""V^(l+1) = W^(l+1) D^(l) V^(l) pushed upwards from the input, all units at once, and the norms of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.regions.effective import Convolution, Dense
from robustcli.regions.first_layer import combine, root, size_sum
from robustcli.regions.geometry import Geometry
from robustcli.regions.windows import Cells, FirstDense, NextConvolution, SecondConvolution, first_cells

Norms = list[Tensor]
"""One tensor per exponent."""


@dataclass(frozen=True)
class Sums:
    """Power sums and norms of rows of `inputs` entries, each raised to `floor` in size, for several exponents."""

    qs: Sequence[float]
    floor: float
    inputs: int

    def __call__(self, rows: Tensor, dim: int) -> Norms:
        """Power sums over a dimension of stored entries (see `first_layer.power_sum`)."""
        sizes = rows.abs()
        if self.floor:
            sizes = sizes.clamp_(min=self.floor)
        return [size_sum(sizes, q, dim) for q in self.qs]

    def combine(self, pieces: Sequence[Norms]) -> Norms:
        """Power sums of whole rows from those of their pieces."""
        return [combine(torch.stack(own), q, 0) for *own, q in zip(*pieces, self.qs, strict=True)]

    def whole(self, rows: Tensor) -> Norms:
        """Norms of rows [..., d]."""
        return self.norms(self(rows, -1), rows.shape[-1])

    def norms(self, sums: Norms, stored: int) -> Norms:
        """Norms from the power sums of the stored entries (zeros beyond the image among them)."""
        return [self._norm(own, q, stored) for own, q in zip(sums, self.qs, strict=True)]

    def _norm(self, sums: Tensor, q: float, stored: int) -> Tensor:
        absent = self.inputs - stored
        if self.floor == 0 or absent == 0:
            return root(sums, q)
        if math.isinf(q):
            return sums.clamp(min=self.floor)
        if q in (1, 2):
            return root(sums + absent * self.floor**q, q)
        return root((sums.exp() + absent * self.floor**q).log(), q)


class Forwards:
    """Norms of the hidden layers above the first: convolutions on windows, dense layers on rows over the whole input.

    Args:
        convolutions, dense: the hidden layers in order.
        sums: exponents, and how entries are counted.
        products: precision in which dense layers are multiplied.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        dense: Sequence[Dense],
        sums: Sums,
        products: torch.dtype,
    ) -> None:
        self.sums = sums
        self.layers = len(convolutions) + len(dense)
        self.maps: list[SecondConvolution | NextConvolution] = []
        self.unfold: FirstDense | None = None
        self.filters: Cells = {}
        self.weights = [layer.weight.to(products) for layer in dense]
        if convolutions:
            geometry = Geometry.first(convolutions[0])
            self.filters = first_cells(convolutions[0])
            for place, layer in enumerate(convolutions[1:]):
                above = NextConvolution(geometry, layer) if place else SecondConvolution(convolutions[0], layer)
                self.maps.append(above)
                geometry = above.geometry
            if dense:
                self.unfold = FirstDense(geometry, dense[0].in_shape, self.weights.pop(0))
        windows = [math.prod(step.layer.out_shape) * step.geometry.size for step in self.maps]
        widest = max([layer.weight.shape[0] for layer in dense], default=0)
        self.numbers = 3 * sum(sorted(windows)[-2:]) + 3 * sums.inputs * widest + 1

    def __call__(self, masks: Sequence[Tensor]) -> list[Norms]:
        """From the patterns of the hidden layers: norms [n, units] per exponent of each layer above the first."""
        found: list[Norms] = []
        weights = list(self.weights)
        if self.filters:
            rows = self._through_windows(masks, found)
        elif weights:
            rows = weights.pop(0).unsqueeze(0)
        for weight, layer in zip(weights, range(self.layers - len(weights), self.layers), strict=True):
            active = weight * masks[layer - 1].flatten(1).unsqueeze(1).to(weight.dtype)
            if len(rows) == 1:  # V of the first layer, the same for every image
                rows = (active.flatten(0, 1) @ rows[0]).view(*active.shape[:2], -1)
            else:
                rows = torch.bmm(active, rows)
            found.append(self.sums.whole(rows))
        return found

    def _through_windows(self, masks: Sequence[Tensor], found: list[Norms]) -> Tensor:
        """Rows of the first dense layer [n, units, d] (columns in any order, zero columns beyond the image among them);
        norms of all layers up to it are added to `found`."""
        cells = self.filters
        room = [] if self.unfold is None else self.unfold.room(len(masks[0]))
        for place, step in enumerate(self.maps):
            pieces: Norms = []
            above: Cells = {}
            for cell, value in step(cells, masks[place]):
                new = self.sums(value, 3)
                pieces = self.sums.combine([pieces, new]) if pieces else new
                if place + 1 < len(self.maps):
                    above[cell] = value
                elif self.unfold is not None:
                    self.unfold.place(room, cell, value, masks[place + 1])
            cells = above
            norms = self.sums.norms(pieces, step.geometry.size)
            found.append([norm.permute(2, 3, 0, 1).flatten(1) for norm in norms])
        if self.unfold is None:
            return masks[0].new_zeros(0)
        if not self.maps:
            for cell, value in cells.items():
                self.unfold.place(room, cell, value, masks[0])
        parts = self.unfold(room)
        found.append(self._norms(parts))
        if not self.weights:
            return masks[0].new_zeros(0)
        return torch.cat([part.transpose(0, 1).flatten(1, 2) for part in parts], 1).transpose(1, 2)

    def _norms(self, parts: Sequence[Tensor]) -> Norms:
        """Norms from rows [cells, n, pixels, units] in several parts."""
        stored = sum(part.shape[0] * part.shape[2] for part in parts)
        return self.sums.norms(self.sums.combine([self._over_cells(part) for part in parts]), stored)

    def _over_cells(self, part: Tensor) -> Norms:
        return [combine(sums, q, 0) for sums, q in zip(self.sums(part, 2), self.sums.qs, strict=True)]
