"""What an evaluator is asked and what it answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from robustcli.balls import Ball, vector_norm
from robustcli.norms import norm_name
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Place, Witness, store

BOUNDED = {"cpu": 16, "cuda": 256}
"""Points bounded at once, by device type: every one has a row for each of its units whose sign is open."""


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
        pause: called by evaluators between two pieces of work, when all that is decided has been handed over; raises
            where the time is over.
    """

    indices: Tensor
    points: Tensor
    labels: Tensor
    predicted: Tensor
    clean_margins: Tensor
    ball: Ball
    pause: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, index: Tensor) -> Batch:
        """Some of the points, by their rows."""
        return Batch(
            self.indices[index],
            self.points[index],
            self.labels[index],
            self.predicted[index],
            self.clean_margins[index],
            self.ball.take(index),
            self.pause,
        )

    def keep(
        self, place: Place | None, row: int, x: Tensor, margin: float, model: str, *, found_by: str = ""
    ) -> str | None:
        """Store a misclassified input of one of the balls; its name.

        Args:
            place: where witnesses are kept; None keeps nothing.
            x: the input, [*input_shape] float64.
            margin: f_y - max f_t at x.
            model: hash of the network as stored.
            found_by: name of the attack.
        """
        if place is None:
            return None
        point = self.points[row]
        witness = Witness(
            point=point.cpu().numpy(),
            witness=x.cpu().numpy(),
            index=int(self.indices[row]),
            label=int(self.labels[row]),
            margin=margin,
            norm=norm_name(self.ball.p),
            distance=float(vector_norm((x - point).flatten(), self.ball.p)),
            model=model,
            found_by=found_by,
        )
        return store(place, witness)


class Evaluator(Protocol):
    """One way of answering a question: a class per command, in the module of its name."""

    batch_size: int
    """How many points a call handles best."""

    def __call__(self, batch: Batch) -> Iterable[PointRecord]:
        """One record per point, as soon as it is decided; never raises for a single undecided point.

        A cheap pass before another evaluator may leave points out.
        """
        ...
