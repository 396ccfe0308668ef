"""One linear piece of the network, given by any activation pattern and seen from a point x that need not lie in it.

With the pattern's bits fixed, every pre-activation is an affine function of the input (000 Lemma 2.1):

    f_j(x + delta) = v_j + <V_j, delta>,     the piece = { x + delta : s_j (v_j + <V_j, delta>) >= 0 for all units j }

with s_j = +1 or -1 as bit j says. Pieces are closed: at a point where units are zero at once, the piece of every
combination of their bits contains the point, so neighbours are always one bit apart (this covers units with the same
hyperplane). Rows are pulled back only for units that are asked for; flipping a bit keeps what it cannot change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcli.balls import vector_norm
from robustcli.networks.network import Network
from robustcli.regions.affine import Region, decision_rows, unit_rows
from robustcli.regions.rounding import SPARE, gamma, reached, row_errors

Array = NDArray[np.float64]
COPIES = 3  # arrays alive for each row that is pulled back


@dataclass(frozen=True, eq=False)
class Piece:
    """A linear piece.

    Args:
        network: float64.
        masks: the pattern, L tensors of 0 and 1, [1, *out_shape].
        point: x, [1, *input_shape].
        label: its class y, [1].
        q: exponent the norms of rows are in.
        norms: upper bounds on ||V_j||_q of all hidden units, [N]; 0 exactly for rows that are zero. (A piece that
            proves nothing may use estimates.)
        memory: bytes for rows that are pulled back at once.
        flips: which bits differ from the first piece of a search.
    """

    network: Network
    masks: tuple[Tensor, ...]
    point: Tensor
    label: Tensor
    q: float
    norms: Array
    memory: int = 2**28
    flips: frozenset[int] = frozenset()
    known: dict[int, Array] = field(default_factory=dict)

    @cached_property
    def signs(self) -> Array:
        """s_j = +-1, [N]."""
        return 2.0 * _flat(self.masks) - 1.0

    @cached_property
    def region(self) -> Region:
        """The piece as a region of one point; its values are V x + a with these bits."""
        return Region(self.network, self._through(self.point), list(self.masks))

    @cached_property
    def values(self) -> Array:
        """v_j, [N]."""
        return _flat(self.region.values[:-1])

    @cached_property
    def margins(self) -> Array:
        """(f_y - f_s)(x) by the affine map of the piece, s != y ascending, [K-1]."""
        return self._margins(self.region.values[-1])[0]

    @property
    def value_errors(self) -> Array:
        """Rounding errors of the values, [N]."""
        return self._errors[0]

    @property
    def row_errors(self) -> Array:
        """Rounding errors of the rows in the l1 norm, [N]."""
        return self._errors[1]

    @property
    def margin_errors(self) -> Array:
        """Rounding errors of the margins, [K-1]."""
        return self._errors[2]

    @property
    def decision_errors(self) -> Array:
        """Rounding errors of the decision rows in the l1 norm, [K-1]."""
        return self._errors[3]

    @cached_property
    def decisions(self) -> Array:
        """V_y - V_s for every s != y, s ascending, [K-1, d]."""
        rows: Array = decision_rows(self.region, self.label).flatten(2)[0].numpy(force=True)
        return rows

    @property
    def relative(self) -> float:
        """Relative error of sums over the input coordinates."""
        return relative_error(self.point)

    @cached_property
    def ahead(self) -> Array:
        """Certified distances without box to the hyperplanes of units on whose side x lies, 0 for the others (the piece
        can be left through those at any distance), inf for constant units; [N]."""
        inside = np.maximum(self.signs * self.values - self.value_errors, 0.0) * (1 - self.relative)
        constant = self.norms == 0
        return np.where(constant, np.inf, inside / np.where(constant, 1.0, self.norms))

    @property
    def impossible(self) -> bool:
        """Whether a unit that is constant on the piece has the wrong sign, so that no point is in it."""
        wrong = (self.norms == 0) & (self.row_errors == 0) & (self.signs * self.values < -self.value_errors)
        return bool(wrong.any())

    def rows(self, units: Sequence[int]) -> Array:
        """V_j of these units, [R, d]."""
        missing = [unit for unit in dict.fromkeys(units) if unit not in self.known]
        count = max(1, self.memory // (8 * COPIES * (self.network.hidden_units + self.point.numel())))
        for start in range(0, len(missing), count):
            part = missing[start : start + count]
            chosen = torch.tensor([part], device=self.point.device)
            self.known.update(zip(part, unit_rows(self.region, chosen).flatten(2)[0].numpy(force=True), strict=True))
        return np.array([self.known[unit] for unit in units]).reshape(len(units), self.point.numel())

    def at(self, move: Array) -> tuple[Array, Array]:
        """Values of all units [N] and margins [K-1] of the affine map at x + move."""
        z = self.point + torch.from_numpy(move).to(self.point.device).view_as(self.point)
        *hidden, logits = self._through(z)
        return _flat(hidden), self._margins(logits)[0]

    def flipped(self, unit: int, certified: bool = True) -> Piece:
        """The piece with one bit changed.

        Args:
            certified: also bound the norms of the rows that change; otherwise the old ones stay as estimates.
        """
        masks, position, place = list(self.masks), 0, unit
        while place >= masks[position].numel():
            place -= masks[position].numel()
            position += 1
        mask = masks[position].clone()
        mask.view(-1)[place] = 1 - mask.view(-1)[place]
        masks[position] = mask
        changed = self._above(position, place)
        kept = {other: row for other, row in self.known.items() if not changed[other]}
        known = kept if changed.any() else self.known
        norms = self.norms.copy()
        flips = self.flips ^ frozenset({unit})
        new = Piece(self.network, tuple(masks), self.point, self.label, self.q, norms, self.memory, flips, known)
        if certified and changed.any():
            units = changed.nonzero()[0]
            norms[units] = new.bounded_norms(units.tolist())
        return new

    def bounded_norms(self, units: Sequence[int]) -> Array:
        """Upper bounds on ||V_j||_q of these units, [R], 0 exactly where the row is zero without rounding."""
        found: Array = vector_norm(torch.from_numpy(self.rows(units)), self.q).numpy()
        return found * (1 + self.relative) + self.row_errors[list(units)]

    def _above(self, position: int, place: int) -> NDArray[np.bool_]:
        """Which hidden units' rows can depend on a bit, [N]."""
        parts = [torch.zeros(mask.numel(), dtype=torch.bool) for mask in self.masks]
        depending = torch.zeros_like(self.masks[position])
        depending.view(-1)[place] = 1.0
        for above in range(position + 1, len(self.masks)):
            depending = reached(self.network.blocks[above], depending)
            parts[above] = depending.flatten().bool().cpu()
            depending = depending * self.masks[above]
        return torch.cat(parts).numpy()

    def _through(self, z: Tensor) -> list[Tensor]:
        """Values of all blocks at z [n, *input_shape] with the bits of the pattern."""
        values: list[Tensor] = []
        for position, block in enumerate(self.network.blocks):
            z = block(z if position == 0 else z * self.masks[position - 1])
            values.append(z)
        return values

    def _margins(self, logits: Tensor) -> Array:
        own = logits.gather(1, self.label.expand(len(logits), 1))
        classes = torch.arange(logits.shape[1], device=logits.device) != self.label
        found: Array = (own - logits[:, classes]).numpy(force=True)
        return found

    @cached_property
    def _errors(self) -> tuple[Array, Array, Array, Array]:
        """Running error analysis as in `rounding.region_errors`, with the bits of the pattern in place of the ReLUs."""
        rows_up = row_errors(self.network, self.masks, self.point)
        values_up, x, error = [], self.point, torch.zeros_like(self.point)
        for position, block in enumerate(self.network.blocks):
            if position:
                mask = self.masks[position - 1]
                doubt = x.abs() <= error  # a unit that may be zero or not counts with either bit
                error = torch.where((mask > 0) | doubt, error + doubt * x.abs() * (1 - mask), 0.0)
                x = x * mask
            for layer in block.layers:
                roundings = layer.fan_in + SPARE
                fresh = gamma(roundings, x.dtype) * (layer.magnitude(x.abs() + error) + layer.offset_size(x[:1]))
                error = layer.magnitude(error) + fresh + 2 * roundings * torch.finfo(x.dtype).tiny
                x = layer(x)
            values_up.append(error)
        last = values_up[-1] + gamma(SPARE, x.dtype) * x.abs()
        return _flat(values_up[:-1]), _flat(rows_up[:-1]), self._pairs(last), self._pairs(rows_up[-1])

    def _pairs(self, errors: Tensor) -> Array:
        """error_y + error_s for every s != y, s ascending: [1, K] -> [K-1]."""
        classes = torch.arange(errors.shape[1], device=errors.device) != self.label
        found: Array = (errors[0, classes] + errors[0, self.label]).numpy(force=True)
        return found


def relative_error(point: Tensor) -> float:
    """Relative error of sums over the coordinates of a point [1, *input_shape]."""
    return gamma(16 * point.numel() + 64, point.dtype)


def _flat(parts: Sequence[Tensor]) -> Array:
    """Tensors [1, ...] as one vector."""
    if not parts:
        return np.empty(0)
    found: Array = torch.cat([part.flatten() for part in parts]).numpy(force=True)
    return found
