"""Questions with a known answer: points next to inputs that are misclassified, at distances known from the start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network, margins

Box = tuple[float, float] | None


@dataclass(frozen=True)
class Planted:
    """B points of one network, correctly classified, each with a misclassified input near by.

    Args:
        name: of the construction.
        network: float64.
        p: exponent of the norm; box: input box, or None.
        points, planted: [B, *input_shape].
        labels: of the points, [B].
        distances: ||planted - point||_p, [B].
        nearest: whether no misclassified input of the box is nearer; else there may be some.
    """

    name: str
    network: Network
    p: float
    box: Box
    points: Tensor
    planted: Tensor
    labels: Tensor
    distances: Tensor
    nearest: bool

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, stretch: float) -> Batch:
        """The points with radii `stretch` times the distances of the planted inputs."""
        ball = Ball(self.points, self.distances * stretch, self.p, self.box)
        clean = margins(self.network(self.points), self.labels)
        return Batch(torch.arange(len(self)), self.points, self.labels, self.labels, clean, ball)

    def wrong(self) -> Tensor:
        """The margins of the planted inputs, [B]."""
        return margins(self.network(self.planted), self.labels)

    def take(self, index: Sequence[int]) -> Planted:
        """Some of the points."""
        chosen = torch.tensor(index)
        parts = (self.points[chosen], self.planted[chosen], self.labels[chosen], self.distances[chosen])
        return Planted(self.name, self.network, self.p, self.box, *parts, self.nearest)


def steepest(rows: Tensor, p: float) -> Tensor:
    """Moves m with ||m||_p = 1 and <row, m> = ||row||_q: equality in Hoelder's inequality; rows [B, d]."""
    size = rows.abs()
    if p == 1:
        length = torch.zeros_like(rows).scatter(1, size.argmax(1, keepdim=True), 1.0)
    elif math.isinf(p):
        length = torch.ones_like(rows)
    else:
        length = (size / size.amax(1, keepdim=True)).pow(1 / (p - 1))
    move = rows.sign() * length
    return move / torch.linalg.vector_norm(move, ord=p, dim=1, keepdim=True)
