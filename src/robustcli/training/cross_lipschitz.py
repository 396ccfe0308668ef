"""Cross-Lipschitz regularisation (Hein & Andriushchenko, NIPS 2017), a baseline of 000 appendix C.

    loss = mean CE + lambda Omega
    Omega = 1/(n K^2)  sum over points i  sum over classes l, m   || grad f_l(x_i) - grad f_m(x_i) ||_2^2

the mean squared cross-Lipschitz constants at the training points: the smaller they are, the farther a margin reaches
in l2. On a linear region the gradients are the rows of V^(L+1) (`regions.affine`), patterns being constants; with
their mean g over the classes the double sum is 2 K sum_l || grad f_l - g ||^2, so K centred rows a point are enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.network import Network
from robustcli.recipes.methods import CrossLipschitz as Settings
from robustcli.recipes.model import Recipe
from robustcli.regions.affine import Region, pull_back
from robustcli.training.objective import Loss, Moment, Objective


def cross_lipschitz(region: Region) -> Tensor:
    """1/K^2 sum over l, m of ||grad f_l - grad f_m||_2^2 for each of the B points: [B]."""
    classes = region.network.classes
    centring = torch.eye(classes).to(region.values[-1]) - 1 / classes
    earlier = [None] * (len(region.network.blocks) - 1)
    gradients = pull_back(region.network.blocks, region.masks, [*earlier, centring.expand(region.size, -1, -1)])
    return 2 / classes * gradients.flatten(1).square().sum(1)


@dataclass(frozen=True)
class CrossLipschitz:
    """The objective."""

    settings: Settings

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        region = Region.of(network, points)
        logits = region.values[-1]
        entropy = F.cross_entropy(logits, labels)
        if self.settings.lmbd == 0:
            return Loss(entropy, logits, {"ce": entropy})
        penalty = cross_lipschitz(region).mean()
        return Loss(entropy + self.settings.lmbd * penalty, logits, {"ce": entropy, "cross_lipschitz": penalty})


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `cross-lipschitz`."""
    return CrossLipschitz(settings)
