"""Tasks of which the nearest misclassified points are known, for the minimal-norm attacks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.contract import Task
from robustcli.attacks.noise import point_seeds
from robustcli.balls import Ball, vector_norm
from robustcli.boxes import Box
from robustcli.networks.network import Network, margins
from robustcli.regions.affine import Region, decision_rows
from robustcli.regions.box import box_distance, projection
from tests.nets import dense

NORMS = [1.0, 2.0, math.inf]
UNIT = (0.0, 1.0)


def task(
    network: Network,
    x: Tensor,
    y: Tensor,
    p: float,
    box: Box = UNIT,
    eps: float = math.inf,
    indices: Tensor | None = None,
    near: Tensor | None = None,
) -> Task:
    """A task about these points, each with a seed of its own."""
    seeds = point_seeds(0, torch.arange(len(x)) if indices is None else indices)
    return Task.of(network, Ball.around(x, eps, p, box), y, seeds, near=near)


def points(network: Network, count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random points of the unit box and their classes, after moving the last bias so that no class has them all."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *network.input_shape, dtype=torch.float64, generator=generator)
    network.layers[-1].bias.data -= network.double()(x).mean(0).to(network.dtype)
    return x, network.double()(x).argmax(1)


def linear(count: int = 12, dimension: int = 8, classes: int = 3) -> tuple[Network, Tensor, Tensor]:
    """A linear classifier, with points and their classes."""
    network = dense([dimension, classes], 2)
    return network, *points(network, count)


def linear_distances(network: Network, x: Tensor, y: Tensor, p: float, box: Box) -> Tensor:
    """The distances of a linear classifier's points to the nearest decision hyperplane, in closed form, [B]."""
    region = Region.of(network, x)
    rows, values = decision_rows(region, y).flatten(2), region.margins(y)
    if box is None:
        return vector_norm(projection(rows, values, p), p).amin(1)
    return box_distance(rows, values, x.unsqueeze(1), box, p).amin(1)


def flat_network(classes: int = 3) -> Network:
    """Every ReLU off everywhere in the unit box: constant logits, class 0 wins, no gradient."""
    network = dense([4, 3, classes], 0)
    for layer in network.layers[::2]:
        layer.weight.data.zero_()
        layer.bias.data.copy_(-torch.ones_like(layer.bias))
    network.layers[2].bias.data[0] = 1.0
    return network


def right_margin(network: Network, x: Tensor, y: Tensor) -> Tensor:
    """Float64 margins, [B]."""
    return margins(network.double()(x), y)
