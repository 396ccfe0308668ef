"""MMR: the maximum margin regulariser for linear regions (000 eq. 4), and MMR+AT.

    loss = mean CE + lambda(e) mean kMMR
    kMMR(x, y) = 1/k_B  sum over the k_B nearest units of   [1 - d_B / gamma]_+
               + 1/k_D  sum over the classes s != y of      [1 - d_D,s / gamma]_+

d_B and d_D are distances to the boundaries of the linear region and to the decision hyperplanes (`training.margin`).
With `boundary: false` the first sum is left out (MMR-dD, the ablation of 000). For MMR+AT both terms are taken on a
batch whose first part is attacked (000 appendix B.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from robustcli.data.specs import spec
from robustcli.networks.network import Network
from robustcli.norms import exponent
from robustcli.recipes.methods import MaximumMargin as Settings
from robustcli.recipes.model import Recipe
from robustcli.regions.affine import Region
from robustcli.training.adversarial import Box, attacked_batch, radii
from robustcli.training.hinges import decision_divisor, nearest_count, rows, tie_offsets, warmup
from robustcli.training.margin import FIRST_PASS, Hinge, Margin
from robustcli.training.objective import Loss, Moment, Objective


@dataclass(frozen=True)
class MaximumMargin:
    """The objective.

    Args:
        settings: norm, lambda, gamma, schedules, conventions.
        offsets: tie-breaking constants [N].
        eps: radius per attacked norm (MMR+AT), else empty.
        box: input box of the attack.
    """

    settings: Settings
    offsets: Tensor
    eps: Mapping[str, float]
    box: Box

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        settings = self.settings
        if settings.adversarial is not None:
            points = attacked_batch(network, points, labels, settings.adversarial, self.eps, self.box, moment.generator)
        region = Region.of(network, points)
        logits = region.values[-1]
        entropy = F.cross_entropy(logits, labels)
        weight = settings.lmbd * warmup(settings.warmup_epochs, moment)
        if weight == 0:
            return Loss(entropy, logits, {"ce": entropy})
        margin = Margin(
            hinges=[Hinge(exponent(settings.norm), settings.gamma, gamma_decision=settings.gamma_decision)],
            count=nearest_count(network.hidden_units, settings.nearest, moment),
            divisor=decision_divisor(settings.conventions, network.classes),
            offsets=self.offsets,
            convention=rows(settings.conventions),
            products=FIRST_PASS[settings.conventions.first_pass],
            boundary=settings.boundary,
        )
        boundary, decision = margin(region, labels)
        boundary, decision = boundary.mean(), decision.mean()
        total = entropy + weight * (boundary + decision)
        return Loss(total, logits, {"ce": entropy, "boundary": boundary, "decision": decision})


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `mmr`."""
    eps = {} if settings.adversarial is None else radii(settings.adversarial, recipe)
    offsets = tie_offsets(network, settings.conventions, seed)
    return MaximumMargin(settings, offsets, eps, spec(recipe.dataset).box)
