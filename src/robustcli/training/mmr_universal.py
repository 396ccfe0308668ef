"""MMR-Universal: an l1 and an linf margin regulariser together, whose hull covers every l_p (001 eq. 9).

    loss = mean CE + mean over x of
        1/k_B  sum over the chosen units j of   l_1 [1 - d_1,B,j / g_1]_+  +  l_inf [1 - d_inf,B,j / g_inf]_+
      + 1/k_D  sum over the classes s != y of   l_1 [1 - d_1,D,s / g_1]_+  +  l_inf [1 - d_inf,D,s / g_inf]_+

`selection: union` (the code of 001) takes the k_B nearest units of both norms together, up to 2 k_B of them, in both
hinges; `separate` (the text) takes for each norm its own k_B nearest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.network import Network
from robustcli.recipes.methods import MaximumMarginUniversal as Settings
from robustcli.recipes.model import Recipe
from robustcli.regions.affine import Region
from robustcli.regions.distances import RegionDistances, distances_of
from robustcli.training.hinges import (
    boundary_term,
    decision_divisor,
    decision_term,
    nearest_count,
    nearest_units,
    tie_offsets,
    warmup,
)
from robustcli.training.objective import Loss, Moment, Objective


def _union(one: Tensor, infinite: Tensor) -> tuple[Tensor, Tensor]:
    both = one | infinite
    return both, both


def _separate(one: Tensor, infinite: Tensor) -> tuple[Tensor, Tensor]:
    return one, infinite


SELECTIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {"union": _union, "separate": _separate}
"""From the units nearest in l1 and in linf to those penalised in l1 and in linf."""


def universal_margin(
    one: RegionDistances, infinite: RegionDistances, settings: Settings, count: int, divisor: int, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Both terms of the regulariser per point, [B] each, the lambdas included: region and decision boundaries.

    Args:
        one, infinite: distances of B points in l1 and linf.
        settings: lambdas, gammas, selection.
        count: k_B.
        divisor: k_D.
        offsets: tie-breaking constants [N].
    """
    chosen = SELECTIONS[settings.selection](
        nearest_units(one.boundary, count, offsets), nearest_units(infinite.boundary, count, offsets)
    )
    boundary = settings.lmbd_l1 * boundary_term(one.boundary, chosen[0], settings.gamma_l1, count)
    boundary = boundary + settings.lmbd_linf * boundary_term(infinite.boundary, chosen[1], settings.gamma_linf, count)
    decision = settings.lmbd_l1 * decision_term(one.decision, settings.gamma_l1, divisor)
    decision = decision + settings.lmbd_linf * decision_term(infinite.decision, settings.gamma_linf, divisor)
    return boundary, decision


@dataclass(frozen=True)
class MaximumMarginUniversal:
    """The objective: settings and the tie-breaking constants [N]."""

    settings: Settings
    offsets: Tensor

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        settings = self.settings
        region = Region.of(network, points)
        logits = region.values[-1]
        entropy = F.cross_entropy(logits, labels)
        weight = warmup(settings.warmup_epochs, moment)
        if settings.lmbd_l1 == 0 and settings.lmbd_linf == 0:
            return Loss(entropy, logits, {"ce": entropy})
        one, infinite = distances_of(region, labels, [1.0, math.inf], stabilise=settings.conventions.stabiliser)
        count = nearest_count(network.hidden_units, settings.nearest, moment)
        divisor = decision_divisor(settings.conventions, network.classes)
        boundary, decision = universal_margin(one, infinite, settings, count, divisor, self.offsets)
        boundary, decision = boundary.mean(), decision.mean()
        total = entropy + weight * (boundary + decision)
        return Loss(total, logits, {"ce": entropy, "boundary": boundary, "decision": decision})


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `mmr-universal`."""
    return MaximumMarginUniversal(settings, tie_offsets(network, settings.conventions, seed))
