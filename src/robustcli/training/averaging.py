"""The moving average of the weights over the last part of a training (Polyak & Juditsky 1992).

    a <- decay a + (1 - decay) w     after every step, a = w where the averaging begins

The steps of a training with noisy gradients wander around a minimum; their average lies nearer to it. Running
statistics of batch normalisation are averaged along. The average is what is evaluated and saved; no step depends on it.
"""

from __future__ import annotations

import copy
from typing import Self

import torch

from robustcli.networks.network import Network
from robustcli.recipes.model import Training
from robustcli.training.schedules import ROUNDING


class Average:
    """The averaged network, and when it begins.

    Args:
        network: as it stands; copied.
        decay: how much of the average a step leaves, in [0, 1).
        share: of the epochs; those with epoch >= share * epochs are averaged, as a schedule's drop counts them.
        epochs: of the whole training.
    """

    def __init__(self, network: Network, decay: float, share: float, epochs: int) -> None:
        self.network = copy.deepcopy(network).eval()
        self.decay, self.first = decay, share * epochs - ROUNDING

    @classmethod
    def of(cls, training: Training, network: Network) -> Self | None:
        """The average that the settings ask for, or None."""
        asked = training.averaging
        return None if asked is None else cls(network, asked.decay, asked.share, training.epochs)

    @torch.no_grad()
    def step(self, network: Network, epoch: int) -> None:
        """Take the weights after a step of an epoch (1, 2, ...) in; before the first one, follow them."""
        weight = 1 - self.decay if epoch >= self.first else 1.0
        given = network.state_dict()
        for name, value in self.network.state_dict().items():
            value.lerp_(given[name], weight)
