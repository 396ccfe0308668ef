"""The loss of COLT (002, section 4 and appendices B to D; as in its code where that says more).

Stage j attacks in the zonotope C_j behind ReLU j (C_0 is the ball itself) and trains what lies behind that ReLU:

    loss = kappa (CE_j + rho_j S) + (1 - kappa) CE_{j-1} + l1 sum |w|,      S = mean over points of sum [-l]_+ [u]_+

CE_j is the cross-entropy of a point of C_j found by the latent attack, CE_{-1} that of the clean point. l and u bound
the pre-activations of the next hidden layer over C_j: S is the area that relaxing it will add; the last stage has none.
kappa rises from 0 to 1 over the first epochs of the stage, rho_j = rho growth^j, and the radius falls from stage to
stage down to eps_factor eps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.latent import Region, above
from robustcli.bounds.types import Bounds
from robustcli.boxes import Box
from robustcli.data.specs import spec
from robustcli.networks.network import Network
from robustcli.recipes.methods import Colt as Settings
from robustcli.recipes.model import Recipe
from robustcli.training.colt.attack import latent_points
from robustcli.training.colt.bounding import BOUNDINGS
from robustcli.training.ibp import weight_sum
from robustcli.training.objective import Loss, Moment, Objective
from robustcli.training.stages import Stages


@dataclass(frozen=True)
class Layerwise:
    """The objective.

    Args:
        settings: of the method.
        stages: of the training.
        eps: the recipe's radius.
        box: input box, or None.
    """

    settings: Settings
    stages: Stages
    eps: float
    box: Box

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        settings, stage = self.settings, self.stages.at(moment.epoch)
        eps, kappa = self.radius(stage), self.share(moment)
        ball = Ball.around(points, eps, float("inf"), self.box)
        last = stage + 1 == self.stages.count
        layers = BOUNDINGS[settings.bounds](settings)(network, ball, stage + (not last), moment.generator)

        def attacked(depth: int) -> Tensor:
            region = Region.of(network, ball, layers[:depth])
            found = latent_points(network, region, labels, settings.attack, moment.generator)
            return above(network, depth, found)

        logits = attacked(stage)
        parts = {"ce": F.cross_entropy(logits, labels)}
        total = kappa * parts["ce"]
        if kappa < 1:
            parts["before"] = F.cross_entropy(network(points) if stage == 0 else attacked(stage - 1), labels)
            total = total + (1 - kappa) * parts["before"]
        if not last and settings.stability > 0:
            parts["area"] = instability(layers[stage])
            total = total + kappa * settings.stability * settings.stability_growth**stage * parts["area"]
        if settings.l1 > 0:
            total = total + settings.l1 * weight_sum(network)
        told = {"stage": stage + 1, "eps": eps, "kappa": kappa}
        return Loss(total, logits, {name: total.new_tensor(value) for name, value in told.items()} | parts)

    def radius(self, stage: int) -> float:
        """The radius of a stage: eps_factor eps in the last one, eps_growth times the next one's in every other."""
        return self.eps * self.settings.eps_factor * self.settings.eps_growth ** (self.stages.count - 1 - stage)

    def share(self, moment: Moment) -> float:
        """kappa: the points seen in this stage, in units of what `mix_epochs` epochs see, at most 1."""
        if self.settings.mix_epochs == 0:
            return 1.0
        return min((moment.time - self.stages.at(moment.epoch) * self.stages.epochs) / self.settings.mix_epochs, 1.0)


def instability(bounds: Bounds) -> Tensor:
    """S, the area of the bands around the ReLUs, over which they are relaxed: (u - l) 2 mu = -l u (002, appendix D)."""
    return ((-bounds.lower).relu() * bounds.upper.relu()).flatten(1).sum(1).mean()


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `colt` for the recipe's eps in linf, inside the data set's input box."""
    return Layerwise(settings, Stages.of(recipe), recipe.eps[settings.norm], spec(recipe.dataset).box)
