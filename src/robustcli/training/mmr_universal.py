"""MMR-Universal: an l1 and an linf margin regulariser together, whose hull covers every l_p (001 eq. 9).

    loss = mean CE + mean over x of
        1/k_B  sum over the chosen units j of   l_1 [1 - d_1,B,j / g_1]_+  +  l_inf [1 - d_inf,B,j / g_inf]_+
      + 1/k_D  sum over the classes s != y of   l_1 [1 - d_1,D,s / g_1]_+  +  l_inf [1 - d_inf,D,s / g_inf]_+

`selection: union` (the code of 001) takes the k_B nearest units of both norms together, up to 2 k_B of them, in both
hinges; `separate` (the text) takes for each norm its own k_B nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.network import Network
from robustcli.recipes.methods import MaximumMarginUniversal as Settings
from robustcli.recipes.model import Recipe
from robustcli.regions.affine import Region
from robustcli.training.hinges import decision_divisor, nearest_count, rows, tie_offsets, warmup
from robustcli.training.margin import FIRST_PASS, Hinge, Margin, Selection, own, union
from robustcli.training.objective import Loss, Moment, Objective

SELECTIONS: dict[str, Selection] = {"union": union, "separate": own}


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
        margin = Margin(
            hinges=[
                Hinge(1.0, settings.gamma_l1, settings.lmbd_l1),
                Hinge(math.inf, settings.gamma_linf, settings.lmbd_linf),
            ],
            count=nearest_count(network.hidden_units, settings.nearest, moment),
            divisor=decision_divisor(settings.conventions, network.classes),
            offsets=self.offsets,
            selection=SELECTIONS[settings.selection],
            convention=rows(settings.conventions),
            products=FIRST_PASS[settings.conventions.first_pass],
        )
        boundary, decision = margin(region, labels)
        boundary, decision = boundary.mean(), decision.mean()
        total = entropy + weight * (boundary + decision)
        return Loss(total, logits, {"ce": entropy, "boundary": boundary, "decision": decision})


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `mmr-universal`."""
    return MaximumMarginUniversal(settings, tie_offsets(network, settings.conventions, seed))
