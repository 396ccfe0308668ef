"""What a training method is: a loss of one batch. The loop knows nothing else about methods.

A method is one file with a factory `make(settings, recipe, network, seed) -> Objective`, listed in `registry.py`.
An objective keeps no state that changes from step to step: all it may depend on is the network, the batch, and the
`Moment`, whose generator is fresh at every step and derived from (seed, epoch, step). Constants drawn once (such as tie
noise) derive from `seed` in `make`. So a run that was stopped anywhere continues exactly as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from robustcli.networks.network import Network


@dataclass(frozen=True)
class Moment:
    """When in the training a batch is met.

    Args:
        epoch: 1, ..., epochs.
        epochs: E, the number of epochs of the whole training.
        step: optimiser step inside this epoch, 0, 1, ...
        generator: random numbers of this step, on the device of the batch.
        steps: number of optimiser steps in an epoch.
    """

    epoch: int
    epochs: int
    step: int
    generator: torch.Generator
    steps: int = 1

    @property
    def time(self) -> float:
        """Epochs that are behind, 0 <= time < epochs."""
        return self.epoch - 1 + self.step / self.steps


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Args:
        total: the scalar to minimise, carrying gradients.
        logits: [B, K] of the points the cross-entropy was taken on, for the training error (gradients are ignored).
        parts: named scalar terms that are reported per epoch (detached or not), e.g. `ce`, `mmr`.
    """

    total: Tensor
    logits: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A training method.

    The total is a mean over the points of the batch, plus terms of the weights alone: so several processes can share a
    batch (`training.distributed`).
    """

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        """The loss of points [B, *input_shape] (float32, scaled to the input box) with labels [B]."""
        ...
