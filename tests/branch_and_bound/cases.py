"""Points, bounds and systems shared by the tests of branch and bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound.system import System
from robustcli.branch_and_bound.verify import Outcome, verify
from robustcli.networks.network import Network, margin_rows


@dataclass(frozen=True)
class Case:
    """A ball around one point with hidden bounds and the system of all its margins."""

    network: Network
    ball: Ball
    label: int
    layers: list[Bounds]
    rows: Tensor
    targets: list[int]
    margins: list[float]

    @property
    def system(self) -> System:
        return System.of(self.network, self.ball, self.layers, self.rows)

    def verify(self, **limits: float) -> Outcome:
        return verify(
            self.network, self.network, self.ball, self.label, self.layers, self.targets, self.margins, **limits
        )


def case(
    network: Network, x: Tensor, eps: float, p: float, box: tuple[float, float] | None, wider: float = 0.0
) -> Case:
    """Around x [1, *input_shape]; hidden bounds of the KW dual, moved outward by `wider`."""
    label = int(network(x).argmax(1))
    ball = Ball.around(x, eps, p, box)
    rows, targets = margin_rows(torch.tensor([label]), network.classes, torch.float64)
    found = dual(network, ball, rows)
    layers = [Bounds(layer.lower - wider, layer.upper + wider) for layer in found.layers]
    return Case(network, ball, label, layers, rows[0], targets[0].tolist(), (found.margins[0] - wider).tolist())


def center(network: Network, seed: int) -> Tensor:
    """A point of the unit box, some coordinates on its faces; [1, *input_shape]."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(1, *network.input_shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
