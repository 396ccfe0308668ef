"""Adversarial training: cross-entropy on points moved by PGD inside the ball (000 appendix B.1; 001 section 5).

One attack per norm (`attacks.training`): random start, `steps` ascent steps on the cross-entropy, the last point is
taken. With several norms each point takes the one with the largest cross-entropy (the union of 001). `fraction` of each
batch is attacked, its first part; the rest stays clean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.attacks.training import evaluating, training_points
from robustcli.balls import Ball
from robustcli.data.specs import spec
from robustcli.errors import RecipeError
from robustcli.networks.network import Network
from robustcli.norms import exponent
from robustcli.recipes.methods import Adversarial as Settings
from robustcli.recipes.model import Recipe
from robustcli.training.objective import Loss, Moment, Objective

Box = tuple[float, float] | None


def attacked_batch(
    network: Network,
    points: Tensor,
    labels: Tensor,
    settings: Settings,
    eps: Mapping[str, float],
    box: Box,
    generator: torch.Generator,
) -> Tensor:
    """The batch with its first `fraction` attacked in every norm of the settings, each point by its worst norm.

    Args:
        points: [B, *input_shape], inside the box.
        labels: [B].
        eps: radius per norm, see `radii`.
        box: input box, or None.
        generator: of the random starts, on the device of `points`.
    Returns:
        [B, *input_shape], inside ball and box, without gradient.
    """
    count = math.ceil(settings.fraction * len(points))
    if count == 0:
        return points
    clean, own = points[:count], labels[:count]
    moved = [
        training_points(
            network,
            Ball.around(clean, eps[norm], exponent(norm), box),
            own,
            settings.steps,
            settings.step_size,
            generator,
        )
        for norm in settings.norms
    ]
    return torch.cat([worst_of(network, moved, own), points[count:]])


def worst_of(network: Network, candidates: Sequence[Tensor], labels: Tensor) -> Tensor:
    """For each point the candidate with the largest cross-entropy (the first one on ties): [B, *input_shape]."""
    if len(candidates) == 1:
        return candidates[0]
    with torch.no_grad(), evaluating(network):
        losses = torch.stack([F.cross_entropy(network(moved), labels, reduction="none") for moved in candidates])
    return torch.stack(list(candidates))[losses.argmax(0), torch.arange(len(labels), device=labels.device)]


@dataclass(frozen=True)
class AdversarialCrossEntropy:
    """CE of the attacked batch."""

    settings: Settings
    eps: Mapping[str, float]
    box: Box

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        moved = attacked_batch(network, points, labels, self.settings, self.eps, self.box, moment.generator)
        logits = network(moved)
        return Loss(F.cross_entropy(logits, labels), logits)


def radii(settings: Settings, recipe: Recipe) -> dict[str, float]:
    """The recipe's eps of every attacked norm.

    Raises:
        RecipeError: when one is missing.
    """
    missing = [norm for norm in settings.norms if norm not in recipe.eps]
    if missing:
        raise RecipeError(f"recipe {recipe.name} attacks in {', '.join(missing)} without a radius", "add it to eps")
    return {norm: recipe.eps[norm] for norm in settings.norms}


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `at`, inside the data set's input box."""
    return AdversarialCrossEntropy(settings, radii(settings, recipe), spec(recipe.dataset).box)
