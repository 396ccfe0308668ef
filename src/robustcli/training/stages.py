"""Trainings in stages: parts of equal length, each with fewer weights, an optimiser of its own and its own pace.

Stage j = 0, 1, ... trains the affine maps behind the first j ReLUs and leaves those before them as they are (002,
Algorithm 1). Its learning rate follows the recipe's schedule, epochs counted from the beginning of the stage, times
decay^j. Every other training is one stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from robustcli.networks.network import Network
from robustcli.recipes.methods import Colt
from robustcli.recipes.model import Recipe, Training
from robustcli.training.schedules import learning_rate


@dataclass(frozen=True)
class Stages:
    """The stages of one training.

    Args:
        count: how many.
        training: the recipe's settings for the epochs of one stage.
        decay: learning rate of a stage in units of the one before.
    """

    count: int
    training: Training
    decay: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe) -> Stages:
        """The stages of a recipe."""
        training = recipe.training.model_copy(update={"epochs": recipe.training.epochs // recipe.stages})
        return cls(recipe.stages, training, recipe.method.rate_decay if isinstance(recipe.method, Colt) else 1.0)

    @property
    def epochs(self) -> int:
        """Epochs of each stage."""
        return self.training.epochs

    def at(self, epoch: int) -> int:
        """The stage, 0-based, that an epoch 1, 2, ... belongs to; the last one after the end."""
        return min((epoch - 1) // self.epochs, self.count - 1)

    def begins(self, epoch: int) -> bool:
        """Whether an epoch is the first of a stage other than stage 0."""
        return epoch > 1 and self.at(epoch) > self.at(epoch - 1)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        stage = self.at(epoch)
        return self.decay**stage * learning_rate(self.training, epoch - stage * self.epochs)

    def freeze(self, network: Network, epoch: int) -> Iterator[nn.Parameter]:
        """Let only the weights that are trained in an epoch have gradients, and name them."""
        network.requires_grad_(True)
        for block in network.blocks[: self.at(epoch)]:
            for layer in block.layers:
                layer.requires_grad_(False)
        return (weight for weight in network.parameters() if weight.requires_grad)
