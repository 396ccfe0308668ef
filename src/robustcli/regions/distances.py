"""Distances from points to the boundaries of their linear region and to its decision hyperplanes (000 Lemma 3.1).

    d_B,j(x) = |f_j(x)| / ||V_j||_q            for every hidden unit j
    d_D,s(x) = (f_y - f_s) / ||V_y - V_s||_q   for every class s != y, negative where s beats y

with q dual to the norm p of the distance. A zero row is constant on the region:
its distance is +inf, its gradient zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.chosen_norms import decision_norms
from robustcli.regions.conventions import EXACT, Convention
from robustcli.regions.row_norms import MEMORY, hidden_norms


@dataclass(frozen=True)
class RegionDistances:
    """Distances of B points in one norm.

    Args:
        boundary: to the hyperplane of every hidden unit, [B, N], >= 0, inf for units that are constant on the region.
        decision: to the decision hyperplane of every class s != y, s ascending, signed, [B, K-1].
        p: exponent of the norm.
    """

    boundary: Tensor
    decision: Tensor
    p: float

    def nearest(self) -> tuple[Tensor, Tensor]:
        """d_B and |d_D|, each [B]: the least distance of each kind (inf without hidden units)."""
        return least(self.boundary), least(self.decision).abs()


def least(values: Tensor) -> Tensor:
    """The minimum over the last dimension, inf over none."""
    return values.amin(-1) if values.shape[-1] else values.new_full(values.shape[:-1], math.inf)


def ratio(values: Tensor, norms: Tensor) -> Tensor:
    """values / norms with +inf where the norm is 0, whatever the value, and no NaN in values or gradients."""
    zero = norms == 0
    return torch.where(zero, math.inf, values / torch.where(zero, 1.0, norms))


def region_distances(
    network: Network, points: Tensor, labels: Tensor, ps: Sequence[float], *, memory: int = MEMORY
) -> list[RegionDistances]:
    """Distances in several norms at once, without gradients.

    Args:
        points: [B, *input_shape].
        labels: [B]; decision distances are those of this class.
        ps: exponents of the norms, each >= 1.
        memory: bytes for one piece of the computation; does not change the values.
    Returns:
        one `RegionDistances` per exponent.
    """
    return distances_of(Region.of(network, points), labels, ps, memory=memory)


@torch.no_grad()
def distances_of(
    region: Region,
    labels: Tensor,
    ps: Sequence[float],
    *,
    convention: Convention = EXACT,
    products: torch.dtype | None = None,
    memory: int = MEMORY,
) -> list[RegionDistances]:
    """The same for regions already built; `convention` and `products` as in `row_norms.hidden_norms`."""
    qs = [dual(p) for p in ps]
    units = hidden_norms(region, qs, convention=convention, products=products, memory=memory)
    decisions = decision_norms(region, labels, qs, convention, memory)
    values, margins = region.hidden().abs(), region.margins(labels)
    return [
        RegionDistances(ratio(values, unit), ratio(margins, decision), p)
        for p, unit, decision in zip(ps, units, decisions, strict=True)
    ]
