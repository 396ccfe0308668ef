"""Optimisers and learning-rate schedules of the recipes, by name. Epochs count from 1 to E."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from robustcli.recipes.model import Adam, Constant, Drop, Halving, Sgd, Training

ROUNDING = 1e-9


def drop(schedule: Drop, epoch: int, epochs: int) -> float:
    """`factor` once for every share with epoch >= share * epochs: 0.1 in epochs 90..100 of 100 (000's code)."""
    return schedule.factor ** sum(epoch >= share * epochs - ROUNDING for share in schedule.shares)


def every(schedule: Halving, epoch: int, epochs: int) -> float:
    """`factor` after every `every` epochs beyond epoch `after`: 10 beyond 20 halves from epochs 31, 41, ... on (KW)."""
    return schedule.factor ** (max(epoch - 1 - schedule.after, 0) // schedule.every)


def constant(schedule: Constant, epoch: int, epochs: int) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[Any, int, int], float]] = {"drop": drop, "every": every, "constant": constant}


def learning_rate(training: Training, epoch: int) -> float:
    """The learning rate of an epoch (1..training.epochs)."""
    return training.optimiser.lr * SCHEDULES[training.schedule.name](training.schedule, epoch, training.epochs)


def adam(settings: Adam, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with beta = (0.9, 0.999) and 1e-8 added to the root."""
    return torch.optim.Adam(weights, lr=settings.lr, weight_decay=settings.weight_decay)


def sgd(settings: Sgd, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, no damping."""
    return torch.optim.SGD(weights, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


OPTIMISERS: dict[str, Callable[[Any, list[nn.Parameter]], torch.optim.Optimizer]] = {"adam": adam, "sgd": sgd}


def optimiser(training: Training, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimiser over the weights."""
    return OPTIMISERS[training.optimiser.name](training.optimiser, list(weights))
