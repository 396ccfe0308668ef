"""The linear region of a point: its activation pattern, and the affine map the network is on it.

With D^(l) = diag(1[f^(l)(x) > 0]) the network is affine around x (000 section 2, Lemma 2.1):

    V^(1) = W^(1),   V^(l+1) = W^(l+1) D^(l) V^(l),   f^(l)(z) = V^(l) z + a^(l)   on the region Q(x).

V^(l) x + a^(l) is the pre-activation at x itself, so only the rows of V need work. They are pulled back through the
adjoints of the layers; patterns are constants for the gradient, weights are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.network import Block, Network, margin_rows


@dataclass(frozen=True)
class Region:
    """The linear regions of B points.

    Args:
        network: the classifier.
        values: pre-activations of the L hidden layers, then the logits, each [B, *block.out_shape].
        masks: L activation patterns of 0 and 1, [B, *block.out_shape], without gradient; exactly 0 counts as off.
    """

    network: Network
    values: list[Tensor]
    masks: list[Tensor]

    @classmethod
    def of(cls, network: Network, points: Tensor) -> Region:
        """The regions of points [B, *input_shape]."""
        values = network.pre_activations(points)
        return cls(network, values, [(value.detach() > 0).to(value.dtype) for value in values[:-1]])

    def take(self, index: Tensor | slice) -> Region:
        """The regions of some of the points."""
        return Region(self.network, [v[index] for v in self.values], [m[index] for m in self.masks])

    @property
    def size(self) -> int:
        """Number of points B."""
        return self.values[0].shape[0]

    def hidden(self) -> Tensor:
        """All hidden pre-activations, layer after layer: [B, N]."""
        hidden = [value.flatten(1) for value in self.values[:-1]]
        return torch.cat(hidden, 1) if hidden else self.values[-1].new_zeros(self.size, 0)

    def margins(self, labels: Tensor) -> Tensor:
        """f_y - f_s for every s != y, s ascending: [B, K-1]."""
        rows, _ = margin_rows(labels, self.network.classes, self.values[-1].dtype)
        return torch.einsum("brk,bk->br", rows, self.values[-1])


def adjoint(block: Block, rows: Tensor) -> Tensor:
    """W^T applied to rows [B, R, *out_shape] -> [B, R, *in_shape]."""
    return block.adjoint(rows.flatten(0, 1)).view(*rows.shape[:2], *block.in_shape)


def pull_back(blocks: Sequence[Block], masks: Sequence[Tensor], rows: Sequence[Tensor | None]) -> Tensor:
    """Rows of V: functionals of the pre-activations, as functionals of the input, on each point's region.

    Args:
        blocks: the first n blocks of the network.
        masks: patterns of (at least) the first n - 1 of them, [B, *out_shape].
        rows: one entry a block, [B, R, *out_shape] or None for zero: the functional is the sum of
            <rows[l], f^(l)> over the blocks; the last entry is given.
    Returns:
        [B, R, *input_shape].
    """
    carried: Tensor | None = None
    for position in reversed(range(len(rows))):
        here = rows[position]
        if carried is not None:
            carried = carried * masks[position].unsqueeze(1)
            here = carried if here is None else here + carried
        if here is None:
            raise ValueError("the last entry of rows must be given")
        carried = adjoint(blocks[position], here)
    if carried is None:
        raise ValueError("rows of at least one block are needed")
    return carried


def decision_rows(region: Region, labels: Tensor) -> Tensor:
    """V_y^(L+1) - V_s^(L+1) for every s != y, s ascending: [B, K-1, *input_shape]."""
    blocks = region.network.blocks
    rows, _ = margin_rows(labels, region.network.classes, region.values[-1].dtype)
    return pull_back(blocks, region.masks, [*[None] * (len(blocks) - 1), rows])


def unit_rows(region: Region, units: Tensor) -> Tensor:
    """V_j^(l) for chosen hidden units, numbered 0..N-1 layer after layer.

    Args:
        units: [B, R] unit numbers, any layers mixed.
    Returns:
        [B, R, *input_shape].
    """
    hidden = region.network.blocks[:-1]
    rows: list[Tensor | None] = []
    first = 0
    for block, value in zip(hidden, region.values, strict=False):
        inside = (units >= first) & (units < first + block.units)
        one_hot = value.new_zeros(*units.shape, block.units)
        one_hot.scatter_(2, (units - first).clamp(0, block.units - 1).unsqueeze(2), inside.unsqueeze(2).to(value.dtype))
        rows.append(one_hot.view(*units.shape, *block.out_shape))
        first += block.units
    return pull_back(hidden, region.masks, rows)


def all_unit_rows(region: Region) -> Tensor:
    """V_j^(l) for every hidden unit: [B, N, *input_shape]. For small networks; B N d numbers at once."""
    units = torch.arange(region.network.hidden_units, device=region.values[0].device)
    return unit_rows(region, units.expand(region.size, -1))
