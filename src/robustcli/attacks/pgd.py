"""Projected gradient descent with restarts, then one run against each of the closest other classes (methods 7.1).

    first run     from the point itself, against all other classes
    then          one run per target t on f_y - f_t, in order of closeness  } from random points, coming in
    then          the other restarts, against all other classes             } from far outside (`wide`);
                  for linf every second one from a random point of the ball

Only points still standing go on. Every answer is judged by `verify.confirm`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.attacks.search import Aim, block_rows, padded, search
from robustcli.attacks.settings import PgdSettings
from robustcli.attacks.training import evaluating
from robustcli.attacks.verify import Confirmed, confirm
from robustcli.attacks.wide import random_start, wide_search
from robustcli.balls import Ball
from robustcli.networks.network import Network


@dataclass(frozen=True)
class AttackResult:
    """What the attack found, per point.

    points: the point with the smallest margin found, float64, inside ball and box, [B, *input_shape].
    success: it is a witness: float64 margin < 0, inside ball and box, [B] bool.
    margins: its float64 margin f_y - max f_t, [B].
    """

    points: Tensor
    success: Tensor
    margins: Tensor


@dataclass(frozen=True)
class Jobs:
    """Runs to be done, one entry each: position in the batch, number of the run, target class (-1: all). All [J]."""

    point: Tensor
    run: Tensor
    target: Tensor

    def take(self, index: Tensor | slice) -> Jobs:
        """Some of the runs."""
        return Jobs(self.point[index], self.run[index], self.target[index])

    def __len__(self) -> int:
        return len(self.point)


def pgd(network: Network, ball: Ball, labels: Tensor, settings: PgdSettings, seeds: Tensor) -> AttackResult:
    """Look for a point of each ball that is misclassified.

    The search runs in the precision of the network (float32 as stored), its answers are checked in float64. What is
    found for a point depends on its seed, not on the rest of the batch.

    Args:
        network: the classifier.
        ball: B balls; their float64 form is what counts.
        labels: [B].
        settings: steps, restarts, targets, loss, step size, sparsity.
        seeds: [B] int64, from `noise.point_seeds`.
    """
    attack = _Attack(network, ball.to(torch.float64), labels, settings, seeds)
    with evaluating(network):
        return attack.run()


class _Attack:
    """The state of one call of `pgd`."""

    def __init__(self, network: Network, ball: Ball, labels: Tensor, settings: PgdSettings, seeds: Tensor) -> None:
        self.network, self.exact = network, network.double()
        self.ball, self.labels, self.settings, self.seeds = ball, labels, settings, seeds
        self.rough = ball.to(network.dtype)
        self.points = self.ball.center.clone()
        self.margins = torch.full_like(self.ball.eps, torch.inf)
        self.success = torch.zeros_like(labels, dtype=torch.bool)
        self.logits = self.margins.new_zeros(len(labels), network.classes)
        rows = block_rows(labels.device)
        for some in torch.arange(ball.size, device=labels.device).split(rows) if ball.size else ():
            runs = torch.zeros_like(some)
            filled = padded(some, rows)
            self._keep(Jobs(some, runs, runs), self._judge(filled, self.ball.center[filled]))

    def run(self) -> AttackResult:
        """All rounds."""
        if self.ball.size:
            # For linf, near and far starts find different witnesses; for l1 and l2, near ones find next to none.
            runs = range(1, self.settings.restarts)
            near = [run for run in runs if run % 2 and math.isinf(self.ball.p)]
            self._work(self._untargeted([0]), wide=False)
            self._work(self._targeted(), wide=True)
            self._work(self._untargeted([run for run in runs if run not in near]), wide=True)
            self._work(self._untargeted(near), wide=False)
        return AttackResult(self.points, self.success, self.margins)

    def _untargeted(self, runs: list[int]) -> Jobs:
        standing = (~self.success).nonzero().squeeze(1)
        point = standing.repeat(len(runs))
        run = torch.tensor(runs, dtype=torch.int64, device=point.device).repeat_interleave(len(standing))
        return Jobs(point, run, torch.full_like(point, -1))

    def _targeted(self) -> Jobs:
        """One run per standing point and target, the class closest at the best point so far first."""
        standing = (~self.success).nonzero().squeeze(1)
        count = min(self.settings.targets, self.logits.shape[1] - 1)
        if self.logits.shape[1] == 2 and self.settings.loss == "margin":
            count = 0  # one rival: the same runs again
        others = self.logits[standing].scatter(1, self.labels[standing].unsqueeze(1), -torch.inf)
        target = others.argsort(dim=1, descending=True, stable=True)[:, :count]
        run = self.settings.restarts + torch.arange(count, device=standing.device)
        return Jobs(standing.repeat(count), run.repeat_interleave(len(standing)), target.T.reshape(-1))

    def _work(self, jobs: Jobs, wide: bool) -> None:
        """Do the runs in order, block by block; runs of points that fell in an earlier block are dropped."""
        rows = block_rows(self.labels.device)
        while len(jobs):
            jobs = jobs.take(~self.success[jobs.point])
            block, jobs = jobs.take(slice(rows)), jobs.take(slice(rows, None))
            if len(block):
                self._keep(block, self._block(block, rows, wide))

    def _block(self, block: Jobs, rows: int, wide: bool) -> Confirmed:
        filled = block.take(padded(torch.arange(len(block), device=block.point.device), rows))
        ball, labels = self.rough.take(filled.point), self.labels[filled.point]
        aim = self._aim(filled, labels)
        seeds = self.seeds[filled.point]
        if wide:
            found = wide_search(self.network, ball, aim, seeds, filled.run, self.settings)
        else:
            centred = filled.run.view(-1, *[1] * (ball.center.dim() - 1)) == 0
            start = torch.where(centred, ball.center, random_start(ball, seeds, filled.run))
            found = search(self.network, ball, aim, start, self.settings, self.settings.steps)
        return self._judge(filled.point, found)

    def _aim(self, jobs: Jobs, labels: Tensor) -> Aim:
        classes = torch.arange(self.logits.shape[1], device=labels.device)
        everyone = jobs.target.unsqueeze(1) < 0
        rivals = (everyone | (classes == jobs.target.unsqueeze(1))) & (classes != labels.unsqueeze(1))
        return Aim(labels, rivals, everyone if self.settings.loss == "ce" else None)

    def _judge(self, point: Tensor, candidates: Tensor) -> Confirmed:
        return confirm(self.exact, self.ball.take(point), self.labels[point], candidates)

    def _keep(self, block: Jobs, found: Confirmed) -> None:
        """Take over the first success in the order of the runs, else the smallest margin; `found` may be longer."""
        points, success, values = block.point.tolist(), found.success.tolist(), found.margins.tolist()
        best = list(zip(self.margins.tolist(), self.success.tolist(), strict=True))
        for row in range(len(block) - 1, -1, -1):
            point = points[row]
            margin, fallen = best[point]
            if success[row] or (not fallen and values[row] < margin):
                best[point] = (values[row], success[row])
                self.points[point], self.logits[point] = found.points[row], found.logits[row]
        self.margins = self.margins.new_tensor([margin for margin, _ in best])
        self.success = self.success.new_tensor([fallen for _, fallen in best])
