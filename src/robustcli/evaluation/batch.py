"""What an evaluator is asked and what it answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from robustcli.balls import Ball
from robustcli.results.schema import PointRecord


@dataclass(frozen=True)
class Batch:
    """Correctly classified test points, all in float64.

    Args:
        indices: rows in the stored test order, [B].
        points: [B, *input_shape], scaled to the input box.
        labels: [B].
        predicted: [B], equal to the labels.
        clean_margins: f_y - max_t f_t at the points, > 0, [B].
        ball: the balls of the question; eps is 0 for bound-distance.
    """

    indices: Tensor
    points: Tensor
    labels: Tensor
    predicted: Tensor
    clean_margins: Tensor
    ball: Ball

    def __len__(self) -> int:
        return len(self.indices)


class Evaluator(Protocol):
    """One way of answering a question: a class per command, in the module of its name."""

    batch_size: int
    """How many points a call handles best."""

    def __call__(self, batch: Batch) -> list[PointRecord]:
        """One record per point, in the order of the batch; never raises for a single undecided point."""
        ...
