"""Points, bounds and encodings shared by the tests of the exact verifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.bounds.types import Bounds
from robustcli.mip.encoding import Encoding, encode
from robustcli.mip.formulations import FORMULATIONS, objective
from robustcli.mip.problem import Problem
from robustcli.networks.network import Network, margin_rows
from tests.nets import convolutional, dense, golden_network


@dataclass(frozen=True)
class Case:
    """A ball around one point, with the best bounds and the encoding of all its margins."""

    network: Network
    ball: Ball
    label: int
    layers: list[Bounds]
    rows: Tensor
    targets: list[int]
    dual_margins: list[float]
    encoding: Encoding

    def problem(self, formulation: str, position: int) -> Problem:
        return objective(FORMULATIONS[formulation][0](self.encoding), self.encoding, position)


def case(network: Network, x: Tensor, eps: float, box: tuple[float, float] | None, label: int | None = None) -> Case:
    """Around x [1, *input_shape], for the predicted class unless told otherwise."""
    label = int(network(x).argmax(1)) if label is None else label
    ball = Ball.around(x, eps, math.inf, box)
    rows, targets = margin_rows(torch.tensor([label]), network.classes, torch.float64)
    first, second = interval(network, ball, rows), dual(network, ball, rows)
    layers = [a.intersect(b) for a, b in zip(first.layers, second.layers, strict=True)]
    return Case(
        network=network,
        ball=ball,
        label=label,
        layers=layers,
        rows=rows[0],
        targets=targets[0].tolist(),
        dual_margins=torch.maximum(first.margins, second.margins)[0].tolist(),
        encoding=encode(network, ball, layers, rows[0]),
    )


def golden(eps: float) -> Case:
    """Net G around its point, unboxed."""
    network, x, label = golden_network()
    return case(network, x, eps, None, int(label))


def point(network: Network, seed: int) -> Tensor:
    """A reproducible point in [0, 1]^d."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.rand(1, *network.input_shape, generator=generator, dtype=torch.float64)


def small(seed: int, eps: float = 0.2, box: tuple[float, float] | None = (0.0, 1.0), unstable: int = 3) -> Case:
    """A net of 11 hidden units in three inputs: the first from the seed that leaves enough of them unstable."""
    nets = (dense([3, 6, 5, 3], seed + 100 * k) for k in range(100))
    found = (case(network, point(network, seed), eps, box) for network in nets)
    return next(some for some in found if sum(some.encoding.unstable) >= unstable)


def image(seed: int, eps: float = 0.05, normalise: bool = True) -> Case:
    """A convolutional net on an 8x8 image; some pixels at the border of the box, one of them stuck there."""
    network = convolutional(seed, normalise=normalise)
    x = point(network, seed)
    x[0, 0, 0, :3] = 0.0
    x[0, 0, 3, 3:6] = 1.0
    return case(network, x, eps, (0.0, 1.0))
