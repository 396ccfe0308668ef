"""The regularisers of MMR and MMR-Universal on one batch: hinges on the distances to the nearest hyperplanes.

    boundary   1/k_B  sum over the chosen units j    of  w_p [1 - d_p,B,j / gamma_p]_+      summed over the norms p
    decision   1/k_D  sum over the classes s != y    of  w_p [1 - d_p,D,s / gamma_p]_+

All distances are computed without gradients; those that are chosen and nearer than gamma are then computed again with
gradients, through numerators and norms (the others have hinge 0). Patterns and the choice of units are constants. The
first pass may be of low precision: then some more units than k_B are computed again, and ranked by what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.network import margin_rows
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.chosen_norms import Hyperplanes, chosen_norms
from robustcli.regions.conventions import EXACT, Convention
from robustcli.regions.distances import distances_of, ratio
from robustcli.training.hinges import hinge, nearest_units

FIRST_PASS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""By the name in recipes: precision of the first pass, None for that of the network."""

SLACK = 1 + 1e-4  # on gamma, so that rounding in the first pass drops no hyperplane whose hinge is positive
LOW_SLACK, SPARE = 1.03, 1.1  # on gamma and on k_B, where the first pass is of low precision


@dataclass(frozen=True)
class Hinge:
    """The penalty of one norm: weight [1 - d_p / gamma]_+, with gamma_D for decision boundaries (None: the same)."""

    p: float
    gamma: float
    weight: float = 1.0
    gamma_decision: float | None = None

    @property
    def decision(self) -> float:
        """gamma_D."""
        return self.gamma if self.gamma_decision is None else self.gamma_decision


Selection = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""From the masks [B, N] of the nearest units in each norm to the masks of those penalised in each norm."""


def own(nearest: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each norm its own nearest units."""
    return nearest


def union(nearest: Sequence[Tensor]) -> Sequence[Tensor]:
    """The units nearest in any norm, for every norm."""
    return [torch.stack(list(nearest)).any(0)] * len(nearest)


@dataclass(frozen=True)
class Margin:
    """The regulariser.

    Args:
        hinges: one per norm.
        count: k_B.
        divisor: k_D.
        offsets: tie-breaking constants [N], added before the nearest units are chosen.
        selection: which of the nearest units each norm penalises.
        convention: how norms of rows are taken.
        boundary: whether region boundaries are penalised at all.
        products: precision of dense products in the first pass (None: that of the network).
    """

    hinges: Sequence[Hinge]
    count: int
    divisor: int
    offsets: Tensor
    selection: Selection = own
    convention: Convention = EXACT
    boundary: bool = True
    products: torch.dtype | None = None

    def __call__(self, region: Region, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Boundary and decision term per point, [B] each, differentiable in the weights."""
        low = self.products is not None
        ps = [h.p for h in self.hinges]
        found = distances_of(region, labels, ps, convention=self.convention, products=self.products)
        slack = LOW_SLACK if low else SLACK
        near = torch.stack([d.boundary < slack * h.gamma for d, h in zip(found, self.hinges, strict=True)])
        units = self._units([d.boundary for d in found], SPARE if low else 1.0)
        classes = [d.decision < SLACK * h.decision for d, h in zip(found, self.hinges, strict=True)]
        # A unit far in every norm has no hinge, one near in any may have it in all (`union`).
        image, unit = (torch.stack(list(units)).any(0) & near.any(0)).nonzero().unbind(1)
        decision_image, target = torch.stack(classes).any(0).nonzero().unbind(1)
        logits = region.values[-1]
        rows, _ = margin_rows(labels, region.network.classes, logits.dtype)
        chosen = Hyperplanes(image, unit, decision_image, rows[decision_image, target])
        norms, decision_norms = chosen_norms(region, chosen, [dual(p) for p in ps], self.convention)
        values, margins = region.hidden()[image, unit].abs(), region.margins(labels)[decision_image, target]
        distances = [ratio(values, norm) for norm in norms]
        if low:
            pairs = zip(found, distances, strict=True)
            units = self._units([old.boundary.index_put((image, unit), new.detach()) for old, new in pairs], 1.0)
        boundary, decision = logits.new_zeros(region.size), logits.new_zeros(region.size)
        for h, distance, mask, norm in zip(self.hinges, distances, units, decision_norms, strict=True):
            unit_hinge = h.weight * hinge(distance, h.gamma) * mask[image, unit]
            class_hinge = h.weight * hinge(ratio(margins, norm), h.decision)
            boundary = boundary.index_add(0, image, unit_hinge)
            decision = decision.index_add(0, decision_image, class_hinge)
        return boundary / self.count, decision / self.divisor

    def _units(self, distances: Sequence[Tensor], spare: float) -> Sequence[Tensor]:
        """Masks of the units penalised in each norm, with spare * k_B nearest ones."""
        if not self.boundary:
            return [torch.zeros_like(d, dtype=torch.bool) for d in distances]
        return self.selection([nearest_units(d, math.ceil(spare * self.count), self.offsets) for d in distances])
