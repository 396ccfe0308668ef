"""What every attack is asked and what it answers: one call shape for all of them.

    attack(task, settings) -> Found

An attack with a fixed radius looks for any misclassified point of the ball; a minimal-norm attack for the nearest one,
and takes the ball's radius as the distance beyond which it need not look. Searches run in the precision of the stored
network; `verify.confirm` alone says what counts. What is found for a point depends on the point, its ball and its seed,
never on the rest of the batch: blocks have a fixed number of rows, and random numbers are those of the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robustcli.attacks.search import block_rows, padded
from robustcli.attacks.verify import confirm
from robustcli.balls import Ball
from robustcli.networks.network import Network


@dataclass(frozen=True)
class Task:
    """Points to be attacked, most of them correctly classified.

    Args:
        network: as stored, in evaluation mode; searches run in its precision.
        exact: its float64 copy, by which candidates are judged.
        ball: B balls in float64; the radius is inf where any distance is welcome.
        labels: the true classes, [B].
        seeds: [B] int64, from `noise.point_seeds`.
        rivals: classes worth aiming at, [B, K] bool, never the label; those proved out of reach are left out.
        near: the nearest misclassified point known, [B, *input_shape] float64; the centre itself where none is.
    """

    network: Network
    exact: Network
    ball: Ball
    labels: Tensor
    seeds: Tensor
    rivals: Tensor
    near: Tensor

    @classmethod
    def of(
        cls,
        network: Network,
        ball: Ball,
        labels: Tensor,
        seeds: Tensor,
        rivals: Tensor | None = None,
        near: Tensor | None = None,
        exact: Network | None = None,
    ) -> Task:
        """A task about all other classes, with nothing known, unless told otherwise."""
        if rivals is None:
            rivals = torch.arange(network.classes, device=labels.device) != labels.unsqueeze(1)
        ball = ball.to(torch.float64)
        exact = network.double() if exact is None else exact
        return cls(network, exact, ball, labels, seeds, rivals, ball.center if near is None else near)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Task:
        """Some of the points, [N] positions."""
        return replace(
            self,
            ball=self.ball.take(index),
            labels=self.labels[index],
            seeds=self.seeds[index],
            rivals=self.rivals[index],
            near=self.near[index],
        )

    def blocks(self) -> Iterator[tuple[Tensor, Task]]:
        """The points in blocks of a fixed number of rows: their positions [n], and the task of n rows and copies of the
        first that fill the block up."""
        rows = block_rows(self.labels.device)
        for block in torch.arange(len(self), device=self.labels.device).split(rows) if len(self) else ():
            yield block, self.take(padded(block, rows))

    def judge(self, candidates: Tensor) -> Found:
        """One candidate a point, [B, *input_shape], projected into its ball and judged in float64."""
        checked = confirm(self.exact, self.ball, self.labels, candidates)
        distances = torch.where(checked.success, self.ball.distance(checked.points), torch.inf)
        return Found(checked.points, checked.margins, checked.success, distances, torch.zeros_like(self.labels))

    def nothing(self) -> Found:
        """The answer before anything has been tried: the centres."""
        none = torch.full_like(self.ball.eps, torch.inf)
        found = Found(self.ball.center, none, torch.zeros_like(self.labels, dtype=torch.bool), none, self.labels * 0)
        for index, block in self.blocks():
            found = found.with_rows(index, block.judge(block.ball.center))
        return found


@dataclass(frozen=True)
class Found:
    """What an attack found, per point.

    points: inside ball and box, float64, [B, *input_shape].
    margins: float64 f_y - max f_t there, [B].
    success: misclassified beyond rounding, inside ball and box, [B] bool.
    distances: ||point - centre||_p where it is a success, else inf, [B].
    passes: forward and backward passes spent on the point, each counted, so a gradient is two; [B] int64.
    """

    points: Tensor
    margins: Tensor
    success: Tensor
    distances: Tensor
    passes: Tensor

    def spent(self, passes: Tensor | int) -> Found:
        """The same after so many more passes."""
        return replace(self, passes=self.passes + passes)

    def take(self, index: Tensor) -> Found:
        """Some of the answers, [N] positions."""
        return Found(*(getattr(self, part.name)[index] for part in fields(self)))

    def or_else(self, other: Found, by: Callable[[Found], Sequence[Tensor]]) -> Found:
        """Point by point the answer for which `by` is smaller, ties told by what comes next in it; this one where both
        are alike. Passes add up."""
        better = torch.zeros_like(self.success)
        for mine, theirs in reversed(list(zip(by(self), by(other), strict=True))):
            better = (theirs < mine) | ((theirs == mine) & better)
        wide = better.view(-1, *[1] * (self.points.dim() - 1))
        return Found(
            torch.where(wide, other.points, self.points),
            torch.where(better, other.margins, self.margins),
            torch.where(better, other.success, self.success),
            torch.where(better, other.distances, self.distances),
            self.passes + other.passes,
        )

    def with_rows(self, index: Tensor, other: Found) -> Found:
        """The same with the answers of `other` at some positions [N]; `other` may have more rows than that."""
        parts = []
        for part in fields(self):
            whole = getattr(self, part.name).clone()
            whole[index] = getattr(other, part.name)[: len(index)]
            parts.append(whole)
        return Found(*parts)


def lowest_margin(found: Found) -> tuple[Tensor, Tensor]:
    """What a fixed radius prefers: a success, then the smaller margin."""
    return (~found.success).to(found.margins.dtype), found.margins


def shortest(found: Found) -> tuple[Tensor, Tensor]:
    """What the smallest distance prefers: the nearer success; of two failures the smaller margin."""
    return found.distances, found.margins
