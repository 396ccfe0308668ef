"""Several runs on every point: from other starts, against other classes, in an order, until one of them succeeds.

A run is one search by one row of a block. Only points still standing go on. Rows of one block may belong to one point;
what is found and what it cost are as if the runs of a point had been done one after the other: its first success in
their order, and the passes up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.losses import Loss, margin
from robustcli.attacks.search import Aim, Reached, block_rows, padded
from robustcli.balls import Ball


@dataclass(frozen=True)
class Jobs:
    """Runs to be done, one entry each: position in the task, number of the run, target class (-1: all). All [J]."""

    point: Tensor
    run: Tensor
    target: Tensor

    def take(self, index: Tensor | slice) -> Jobs:
        """Some of the runs."""
        return Jobs(self.point[index], self.run[index], self.target[index])

    def __len__(self) -> int:
        return len(self.point)


@dataclass(frozen=True)
class Rows:
    """One block of runs, R rows: balls in the precision of the network, what to lower, seeds, numbers of the runs."""

    ball: Ball
    aim: Aim
    seeds: Tensor
    run: Tensor


class Runs:
    """The runs of one attack on a task, and what they have found so far.

    Args:
        task: what is attacked.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.rough = task, task.ball.to(task.network.dtype)
        nothing = task.nothing()
        self.found = replace(nothing, margins=_numbers(nothing.margins))
        self.hopeful = task.rivals.any(1)

    @property
    def standing(self) -> Tensor:
        """Positions of the points without a success that have a rival, [S]."""
        return (~self.found.success & self.hopeful).nonzero().squeeze(1)

    def untargeted(self, numbers: Sequence[int]) -> Jobs:
        """Runs of these numbers on every standing point, against all rivals."""
        standing = self.standing
        run = torch.tensor(list(numbers), dtype=torch.int64, device=standing.device).repeat_interleave(len(standing))
        point = standing.repeat(len(numbers))
        return Jobs(point, run, torch.full_like(point, -1))

    def targeted(self, first: int, count: int) -> Jobs:
        """A run per standing point and rival, closest at the best point so far first; numbers from `first`."""
        standing = self.standing
        rivals = self.task.rivals[standing]
        count = min(count, rivals.shape[1])
        others = self._logits(standing).masked_fill(~rivals, -torch.inf)
        target = others.argsort(dim=1, descending=True, stable=True)[:, :count]
        run = first + torch.arange(count, device=standing.device)
        jobs = Jobs(standing.repeat(count), run.repeat_interleave(len(standing)), target.T.reshape(-1))
        return jobs.take(rivals.gather(1, target).T.reshape(-1))

    def work(self, jobs: Jobs, search: Callable[[Rows], Reached], loss: Loss = margin) -> None:
        """Do the runs in order, block by block; runs of points that fell in an earlier block are dropped."""
        rows = block_rows(self.task.labels.device)
        while len(jobs):
            jobs = jobs.take(~self.found.success[jobs.point])
            block, jobs = jobs.take(slice(rows)), jobs.take(slice(rows, None))
            if len(block):
                filled = block.take(padded(torch.arange(len(block), device=block.point.device), rows))
                reached = search(self._rows(filled, loss))
                found = self.task.take(filled.point).judge(reached.points).spent(reached.passes)
                self._keep(block, found)

    def _rows(self, jobs: Jobs, loss: Loss) -> Rows:
        classes = torch.arange(self.task.network.classes, device=jobs.point.device)
        target = jobs.target.unsqueeze(1)
        rivals = ((target < 0) | (classes == target)) & self.task.rivals[jobs.point]
        aim = Aim(self.task.labels[jobs.point], rivals, loss)
        return Rows(self.rough.take(jobs.point), aim, self.task.seeds[jobs.point], jobs.run)

    @torch.no_grad()
    def _logits(self, index: Tensor) -> Tensor:
        """Of the best points so far, by their positions; [N, K]."""
        logits = self.found.margins.new_zeros(len(index), self.task.network.classes)
        rows = block_rows(index.device)
        for some in torch.arange(len(index), device=index.device).split(rows) if len(index) else ():
            logits[some] = self.task.exact(self.found.points[index[padded(some, rows)]])[: len(some)]
        return logits

    def _keep(self, block: Jobs, found: Found) -> None:
        """Take over, point by point, the first success in the order of the runs, else the smallest margin; passes are
        counted up to that success. `found` may have more rows than the block."""
        count, point = len(block), block.point
        order = torch.arange(count, device=point.device)
        success, margins = found.success[:count], _numbers(found.margins[:count])
        nobody = torch.full_like(self.found.passes, count)
        first = nobody.scatter_reduce(0, point, torch.where(success, order, count), "amin")[point]
        lowest = self.found.margins.scatter_reduce(0, point, margins, "amin")[point]
        improves = (margins == lowest) & (margins < self.found.margins[point])
        chosen = torch.where(first < count, order == first, improves)
        winner = nobody.scatter_reduce(0, point, torch.where(chosen, order, count), "amin")
        passes = self.found.passes.scatter_add(0, point, torch.where(order <= first, found.passes[:count], 0))
        changed = (winner < count).nonzero().squeeze(1)
        self.found = replace(self.found.with_rows(changed, found.take(winner[changed])), passes=passes)


def _numbers(margins: Tensor) -> Tensor:
    """Margins with inf for what is no number."""
    return margins.nan_to_num(torch.inf, torch.inf, -torch.inf)
