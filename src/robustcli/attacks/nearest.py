"""The nearest misclassified point: an upper bound on the smallest adversarial perturbation.

A search at a radius per point, doubled until it succeeds, then bisected. Each success is first pulled back along the
segment to the point. Searches from far outside and searches from the best witness so far take turns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.attacks.projection import projector
from robustcli.attacks.search import Aim, block_rows, padded, search
from robustcli.attacks.settings import NearestSettings, PgdSettings
from robustcli.attacks.training import evaluating
from robustcli.attacks.verify import misclassified
from robustcli.attacks.wide import wide_search
from robustcli.balls import Ball, vector_norm
from robustcli.boxes import Box, clipped, covering_radius
from robustcli.networks.network import Network, margins
from robustcli.norms import dual

SEGMENT_STEPS = 12
LAST_SEGMENT_STEPS = 40


def nearest(
    network: Network,
    points: Tensor,
    labels: Tensor,
    p: float,
    box: Box,
    hints: Tensor | None,
    settings: NearestSettings,
    seeds: Tensor,
) -> tuple[Tensor, Tensor]:
    """Misclassified points as near as the search finds them, checked in float64.

    Args:
        network: the classifier.
        points: [B, *input_shape], float64 counts.
        labels: [B].
        p: 1, 2 or inf.
        box: input box that the answers stay in, or None.
        hints: [B] first radii to try, or None (a linear estimate); entries that are not finite or positive are ignored.
        settings: rounds and steps.
        seeds: [B] int64, from `noise.point_seeds`.
    Returns:
        points [B, *input_shape] and distances [B], both float64. A point that is already misclassified has distance 0;
        where nothing was found the distance is inf and the point the original.
    """
    with evaluating(network):
        return _Nearest(network, points.detach().to(torch.float64), labels, p, box, settings, seeds).run(hints)


class _Nearest:
    """The state of one call of `nearest`: per point a radius that failed, the best witness, and its distance."""

    def __init__(
        self,
        network: Network,
        center: Tensor,
        labels: Tensor,
        p: float,
        box: Box,
        settings: NearestSettings,
        seeds: Tensor,
    ) -> None:
        self.network, self.exact = network, network.double()
        self.center, self.labels, self.p, self.box = center, labels, p, box
        self.settings, self.seeds = settings, seeds
        self.pgd = PgdSettings.model_validate({"steps": settings.steps})
        self.widest = covering_radius(p, center[0].numel(), box) if len(center) else math.inf
        self.best = center.clone()
        wrong = self._wrong(self.exact, center, labels)
        self.distance = torch.where(wrong, 0.0, torch.inf).to(center)
        self.failed = torch.zeros_like(self.distance)

    @torch.no_grad()
    def run(self, hints: Tensor | None) -> tuple[Tensor, Tensor]:
        """All rounds."""
        radius = self._estimate()
        if hints is not None:
            hints = hints.to(radius)
            radius = torch.where(hints.isfinite() & (hints > 0), hints, radius)
        for number in range(self.settings.rounds):
            radius = radius.clamp(max=self.widest)
            self._round(radius, number)
            middle = (self.failed + self.distance) / 2
            radius = torch.where(self.distance.isfinite(), middle, 2 * radius)
        self._pull(torch.arange(len(self.center), device=self.center.device), self.best, LAST_SEGMENT_STEPS, self.exact)
        return self.best, self.distance

    def _wrong(self, network: Network, points: Tensor, labels: Tensor) -> Tensor:
        """Whether the margin is below 0 beyond rounding, [N] bool."""
        return misclassified(network, points.to(network.dtype), labels)

    def _estimate(self) -> Tensor:
        """1.5 times the distance at which the linearised margin reaches 0, [B]."""
        with torch.enable_grad():
            x = self.center.detach().clone().to(self.network.dtype).requires_grad_()
            value = margins(self.network(x), self.labels)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        steepness = vector_norm(gradient.flatten(1), dual(self.p)).clamp(min=1e-12)
        return (1.5 * value.detach() / steepness).clamp(min=1e-6).to(torch.float64)

    def _round(self, radius: Tensor, number: int) -> None:
        """One search per point that is not yet misclassified at distance 0, each at its own radius."""
        todo = (self.distance > 0).nonzero().squeeze(1)
        rows = block_rows(todo.device)
        for block in todo.split(rows) if len(todo) else ():
            filled = padded(block, rows)
            ball = Ball(self.center[filled], radius[filled], self.p, self.box).to(self.network.dtype)
            labels = self.labels[filled]
            rivals = torch.arange(self.network.classes, device=labels.device) != labels.unsqueeze(1)
            aim = Aim(labels, rivals)
            if number % 2 == 0:
                found = wide_search(self.network, ball, aim, self.seeds[filled], number, self.pgd)
            else:
                start = projector(ball)(self.best[filled].to(self.network.dtype))
                found = search(self.network, ball, aim, start, self.pgd, self.pgd.steps)
            before = self.distance[block]
            self._pull(block, found[: len(block)].to(torch.float64), SEGMENT_STEPS, self.network)
            fell = self.distance[block] < before
            self.failed[block] = torch.where(fell, self.failed[block], radius[block].minimum(self.distance[block]))

    def _pull(self, index: Tensor, found: Tensor, steps: int, network: Network) -> None:
        """Bisect each segment from the original to `found` for the border, and keep what is nearer and confirmed."""
        found = clipped(found, self.box)
        center, labels = self.center[index], self.labels[index]
        view = (-1, *[1] * (center.dim() - 1))
        low = torch.zeros(len(index), dtype=torch.float64, device=center.device)
        high = torch.ones_like(low)
        for _ in range(steps):
            middle = (low + high) / 2
            wrong = self._wrong(network, center + middle.view(view) * (found - center), labels)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        for reach in (torch.ones_like(high), high):
            point = clipped(center + reach.view(view) * (found - center), self.box)
            distance = vector_norm((point - center).flatten(1), self.p)
            better = (distance < self.distance[index]) & self._wrong(self.exact, point, labels)
            self.best[index[better]] = point[better]
            self.distance[index[better]] = distance[better]
