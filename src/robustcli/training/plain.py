"""Plain training: mean cross-entropy of the clean points."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.network import Network
from robustcli.recipes.methods import Plain as Settings
from robustcli.recipes.model import Recipe
from robustcli.training.objective import Loss, Moment, Objective


def cross_entropy(network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
    """CE(f(x), y), mean over the batch."""
    logits = network(points)
    return Loss(F.cross_entropy(logits, labels), logits)


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `plain`, which has no settings."""
    return cross_entropy
