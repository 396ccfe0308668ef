"""The regularisers of MMR and MMR-Universal on one batch: hinges on the distances to the nearest hyperplanes.

    boundary   1/k_B  sum over the chosen units j    of  w_p [1 - d_p,B,j / gamma_p]_+      summed over the norms p
    decision   1/k_D  sum over the classes s != y    of  w_p [1 - d_p,D,s / gamma_p]_+

All distances are computed without gradients; those that are chosen and nearer than gamma are then computed again with
gradients, through numerators and norms (the others have hinge 0). Patterns and the choice of units are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.network import margin_rows
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.chosen_norms import Hyperplanes, chosen_norms
from robustcli.regions.distances import distances_of, ratio
from robustcli.training.hinges import hinge, nearest_units

SLACK = 1 + 1e-4  # on gamma, so that rounding in the first pass drops no hyperplane whose hinge is positive


@dataclass(frozen=True)
class Hinge:
    """The penalty of one norm: weight [1 - d_p / gamma]_+."""

    p: float
    gamma: float
    weight: float = 1.0


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
        stabiliser: width, see `chosen_norms`.
        boundary: whether region boundaries are penalised at all.
    """

    hinges: Sequence[Hinge]
    count: int
    divisor: int
    offsets: Tensor
    selection: Selection = own
    stabiliser: float = 0.0
    boundary: bool = True

    def __call__(self, region: Region, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Boundary and decision term per point, [B] each, differentiable in the weights."""
        found = distances_of(region, labels, [h.p for h in self.hinges], floor=self.stabiliser)
        near = [d.boundary < SLACK * h.gamma for d, h in zip(found, self.hinges, strict=True)]
        if self.boundary:
            nearest = [nearest_units(d.boundary, self.count, self.offsets) for d in found]
            units = [a & b for a, b in zip(self.selection(nearest), near, strict=True)]
        else:
            units = [torch.zeros_like(mask) for mask in near]
        classes = [d.decision < SLACK * h.gamma for d, h in zip(found, self.hinges, strict=True)]
        image, unit = torch.stack(units).any(0).nonzero().unbind(1)
        decision_image, target = torch.stack(classes).any(0).nonzero().unbind(1)
        logits = region.values[-1]
        rows, _ = margin_rows(labels, region.network.classes, logits.dtype)
        chosen = Hyperplanes(image, unit, decision_image, rows[decision_image, target])
        norms, decision_norms = chosen_norms(region, chosen, [dual(h.p) for h in self.hinges], self.stabiliser)
        values, margins = region.hidden()[image, unit].abs(), region.margins(labels)[decision_image, target]
        boundary, decision = logits.new_zeros(region.size), logits.new_zeros(region.size)
        for index, h in enumerate(self.hinges):
            unit_hinge = h.weight * hinge(ratio(values, norms[index]), h.gamma) * units[index][image, unit]
            class_hinge = h.weight * hinge(ratio(margins, decision_norms[index]), h.gamma)
            boundary = boundary.index_add(0, image, unit_hinge)
            decision = decision.index_add(0, decision_image, class_hinge)
        return boundary / self.count, decision / self.divisor
