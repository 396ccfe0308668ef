"""Evaluation during training (001 Fig. 3): bounds on the robust test error after chosen epochs.

    upper_p     = 1 - share of points certified in l_p       certified: the clean margin and the KW dual bound on every
    upper_union = 1 - share certified in every norm          margin over the ball are positive, as in `robust certify`

in float64, safe against rounding, over the data set's box where it has one. It works on a float64 copy and draws no
random number, so the training does not notice it. An evaluation that was stopped is made again as a whole; one that is
on record is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.data.datasets import Split
from robustcli.errors import UsageError
from robustcli.files import append_lines, read_lines
from robustcli.networks.network import Network, margin_rows, margins
from robustcli.norms import NORMS, check_eps, exponent
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder
from robustcli.results.schema import EvaluationRecord
from robustcli.training.distributed import Group

BATCH = 16
POINTS = 1000
"""How many test points, as in 001; fewer where the data set has fewer."""


class Watcher(Protocol):
    """Told how an evaluation goes."""

    def evaluating(self, epoch: int, done: int, total: int) -> None:
        """`done` of `total` points are behind."""

    def evaluated(self, record: EvaluationRecord, epochs: int) -> None:
        """The evaluation after an epoch is on record."""


@dataclass(frozen=True)
class Wish:
    """What the user wants evaluated.

    Args:
        epochs: after which ones, ascending.
        points: the first N test points; None: POINTS, or all if there are fewer.
    """

    epochs: tuple[int, ...]
    points: int | None = None

    @classmethod
    def of(cls, text: str | None, points: int | None, epochs: int) -> Wish:
        """From the option's text such as `1,2,5`; None for the default schedule.

        Raises:
            UsageError: when it is no list of epochs of the training.
        """
        if text is None:
            return cls(default_epochs(epochs), points)
        try:
            chosen = sorted({int(part) for part in text.split(",")})
        except ValueError:
            raise UsageError(f"--evaluate-at {text!r} is not a list of epochs", "write it as 1,2,5,10") from None
        if wrong := [epoch for epoch in chosen if not 1 <= epoch <= epochs]:
            raise UsageError(f"--evaluate-at: there is no epoch {wrong[0]} in 1 to {epochs}")
        return cls(tuple(chosen), points)


def default_epochs(epochs: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, 100, ... and the last one."""
    round_ones = (digit * 10**power for power in count() for digit in (1, 2, 5))
    return (*takewhile(lambda epoch: epoch < epochs, round_ones), epochs)


class Evaluation:
    """The evaluations of one training.

    Args:
        wish: after which epochs, on how many points.
        recipe: its radii count; the data set's for norms it leaves out.
        test: the test split.
        run: the folder of the record.
        group: the processes that share the points.
    Raises:
        UsageError: when there are fewer points than asked for.
    """

    def __init__(self, wish: Wish, recipe: Recipe, test: Split, run: RunFolder, group: Group) -> None:
        if wish.points is not None and wish.points > len(test):
            raise UsageError(f"--evaluate-points {wish.points} goes beyond the {len(test)} test points")
        self.wish, self.epochs = wish, recipe.training.epochs
        self.points = min(wish.points or POINTS, len(test))
        known = dict(test.spec.eps) | dict(recipe.eps)
        self.eps = {
            norm: check_eps(known[norm], exponent(norm), test.spec.dimension, test.spec.box)
            for norm in NORMS
            if norm in known
        }
        self.test, self.run, self.group = test, run, group
        self.recorded: frozenset[int] = frozenset()

    def look(self) -> None:
        """See which of the epochs are on record already."""
        self.recorded = self.group.first(
            lambda: frozenset(line["epoch"] for line in read_lines(self.run.evaluations) if self._answers(line))
        )

    def _answers(self, line: dict[str, object]) -> bool:
        return line.get("points") == self.points and line.get("eps") == self.eps

    def missed(self, done: int) -> list[int]:
        """The epochs asked for whose weights are gone, when the network at hand is that after epoch `done`."""
        return [epoch for epoch in self.wish.epochs if epoch < done and epoch not in self.recorded]

    def left(self, done: int) -> int:
        """How many evaluations are to come when the network at hand is that after epoch `done`."""
        return sum(epoch >= done and epoch not in self.recorded for epoch in self.wish.epochs)

    def __call__(self, network: Network, epoch: int, watcher: Watcher, stop: Callable[[], bool]) -> bool:
        """Evaluate the network of an epoch and put it on record, if that is asked for and not done yet.

        Returns:
            False when it was stopped before the end.
        """
        if epoch not in self.wish.epochs or epoch in self.recorded:
            return True
        begun, exact = time.monotonic(), network.double()
        total = torch.zeros(len(self.eps) + 2, dtype=torch.int64)
        at_once = BATCH * self.group.size
        for start in range(0, self.points, at_once):
            if self.group.any(stop()):
                return False
            watcher.evaluating(epoch, start, self.points)
            batch = range(start, min(start + at_once, self.points))
            total += self.counts(exact, batch[self.group.rank :: self.group.size])
        wrong, *certified = self.group.sum(total).tolist()
        open_points = [self.points - points for points in certified]
        record = EvaluationRecord(
            epoch=epoch,
            model=network.weights_hash(),
            points=self.points,
            error=wrong / self.points,
            eps=self.eps,
            boxed=self.test.spec.box is not None,
            upper={name: left / self.points for name, left in zip([*self.eps, "union"], open_points, strict=True)},
            seconds=round(time.monotonic() - begun, 3),
        )
        self.group.first(lambda: append_lines(self.run.evaluations, [record.model_dump_json()]))
        self.recorded |= {epoch}
        watcher.evaluated(record, self.epochs)
        return True

    @torch.no_grad()
    def counts(self, exact: Network, index: Collection[int]) -> Tensor:
        """How many of the points are misclassified, certified in each norm, and certified in all: [norms + 2] int64.

        Args:
            exact: float64.
            index: rows of the test split.
        """
        chosen = torch.tensor(list(index), dtype=torch.int64)
        points = self.test.points(chosen, dtype=torch.float64, device=exact.device)
        labels = self.test.labels_tensor(chosen, device=exact.device)
        clean = margins(exact(points), labels)
        right = clean > 0
        rows, _ = margin_rows(labels[right], exact.classes, torch.float64)
        certified = right.repeat(len(self.eps), 1)
        if bool(right.any()):
            for found, (norm, eps) in zip(certified, self.eps.items(), strict=True):
                ball = Ball.around(points[right], eps, exponent(norm), self.test.spec.box)
                found[right] = (dual(exact, ball, rows).margins > 0).all(1)
        return torch.stack([clean < 0, *certified, certified.all(0)]).sum(1).cpu()

    def estimate(self, network: Network) -> float:
        """Seconds of one evaluation, scaled up from one batch with the weights as they are."""
        begun, first = time.monotonic(), range(min(BATCH, self.points))
        self.counts(network.double(), first)
        return (time.monotonic() - begun) * math.ceil(self.points / len(first))
