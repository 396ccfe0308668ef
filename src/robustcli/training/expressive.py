"""R, the robust part of the losses of the IBP family, and how several norms share it.

With CE(m) = log(1 + sum_t exp(-m_t)) of margins m_t = f_y - f_t, m_b their lower bounds over the balls, m_a those of an
attacked point, alpha in [0, 1]:

    IBP, CROWN-IBP   CE(m_b)
    MTL-IBP          alpha CE(m_b) + (1 - alpha) CE(m_a)
    CC-IBP           CE(alpha m_b + (1 - alpha) m_a)
    Exp-IBP          CE(m_b)^alpha CE(m_a)^(1 - alpha)
    SABR             CE(m_b) over a ball of ratio * radius inside the whole one, around an attacked point

CE stands for its mean over the batch (for Exp-IBP: over the share of it that one process sees). De Palma et al. 2024;
Mueller et al. 2023. The bounds of a mixture may be asked over smaller balls than the attack: intervals behind a first
layer of windows take every unit of the l1 ball at its own worst input, though a point of the ball spends its eps once,
so that at large l1 radii they say little of what backward bounds certify afterwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from robustcli.attacks.training import training_points
from robustcli.balls import Ball
from robustcli.bounds.types import MarginBounds
from robustcli.networks.network import Network
from robustcli.recipes.methods import Expressive as ExpressiveSettings
from robustcli.recipes.methods import InnerAttack, Intervals
from robustcli.recipes.methods import SmallBox as SmallBoxSettings
from robustcli.training.adversarial import worst_of
from robustcli.training.interval_pass import bounds, cross_entropies


@dataclass(frozen=True)
class Union:
    """How several balls around each point share a loss.

    Args:
        split: the balls of each pass, from all of them.
        join: the passes a loss is taken of, from all of them.
    """

    split: Callable[[Sequence[Ball]], list[Sequence[Ball]]]
    join: Callable[[list[MarginBounds]], list[Tensor]]


def together(balls: Sequence[Ball]) -> list[Sequence[Ball]]:
    """One pass for all balls."""
    return [balls]


def apart(balls: Sequence[Ball]) -> list[Sequence[Ball]]:
    """A pass for each."""
    return [[ball] for ball in balls]


def every(passes: list[MarginBounds]) -> list[Tensor]:
    """The margins of every pass."""
    return [found.margins for found in passes]


def worst(passes: list[MarginBounds]) -> list[Tensor]:
    """For each point the margins of the pass with its largest loss."""
    margins = torch.stack(every(passes))
    chosen = torch.stack([cross_entropies(found) for found in margins.detach()]).argmax(0)
    return [margins[chosen, torch.arange(len(chosen), device=chosen.device)]]


UNIONS = {"hull": Union(together, every), "worst": Union(apart, worst), "mean": Union(apart, every)}


@dataclass(frozen=True)
class Batch:
    """What a loss may ask of a batch.

    Args:
        network: as an attack meets it, in evaluation mode.
        seen: the network with the batch normalisation of this batch.
        points, labels: [B, *input_shape], [B].
        rows: of the margins, [B, K-1, K].
        balls: one a norm.
        radii: theirs.
        beta: share of CROWN-IBP.
        union: how the norms are joined.
        generator: of an attack's random start.
    """

    network: Network
    seen: Network
    points: Tensor
    labels: Tensor
    rows: Tensor
    balls: list[Ball]
    radii: list[float]
    beta: float
    union: Union
    generator: torch.Generator

    def bounds(self, balls: Sequence[Ball]) -> list[MarginBounds]:
        """Bounds over the union of the balls, in one pass or several."""
        return [bounds(self.seen, part, self.rows, self.beta) for part in self.union.split(balls)]

    def attacked(self, attack: InnerAttack) -> list[Tensor]:
        """For each ball its attacked points, [B, *input_shape]."""
        found = []
        for ball, radius in zip(self.balls, self.radii, strict=True):
            wide, step = replace(ball, eps=attack.radius * ball.eps), attack.step_size * attack.radius * radius
            found.append(training_points(self.network, wide, self.labels, attack.steps, step, self.generator))
        return found

    def margins_at(self, points: Tensor) -> Tensor:
        """f_y - f_t at points [B, *input_shape] for every class t but y: [B, K-1]."""
        return (self.rows @ self.seen(points).unsqueeze(2)).squeeze(2)


class RobustLoss(Protocol):
    """R of one batch, a scalar, and the bounds it rests on."""

    def __call__(self, batch: Batch) -> tuple[Tensor, list[MarginBounds]]: ...


@dataclass(frozen=True)
class Certified:
    """IBP and CROWN-IBP."""

    settings: Intervals

    def __call__(self, batch: Batch) -> tuple[Tensor, list[MarginBounds]]:
        passes = batch.bounds(batch.balls)
        return mean_loss(batch.union.join(passes)), passes


@dataclass(frozen=True)
class SmallBall:
    """SABR, for any norm: the attacked point is moved to where the small ball lies inside the whole one."""

    settings: SmallBoxSettings

    def __call__(self, batch: Batch) -> tuple[Tensor, list[MarginBounds]]:
        attacked, ratio = batch.attacked(self.settings.attack), self.settings.ratio
        passes = batch.bounds([inside(ball, ratio, points) for ball, points in zip(batch.balls, attacked, strict=True)])
        return mean_loss(batch.union.join(passes)), passes


def inside(ball: Ball, ratio: float, points: Tensor) -> Ball:
    """The ball of a share of the radius, as near to the points as it can be inside the whole one.

    linf balls are cut with the box first (Mueller et al.'s code), so that the small one does not shrink at the border:
    a pixel at 0 gets 2 ratio eps, or all of its [0, eps] where that is less.
    """
    small = ratio * ball.eps
    if ball.box is None or not math.isinf(ball.p):
        return replace(ball, center=replace(ball, eps=(1 - ratio) * ball.eps).project(points), eps=small)
    down, up = ball.room()
    eps, reach = (radius.view(-1, *[1] * (points.dim() - 1)) for radius in (ball.eps, small))
    first, last = ball.center - down + reach, ball.center + up - reach
    # Where the small ball is the wider one, it ends where the whole one does, and the box cuts it on its other side.
    center = torch.where((first > last) & (down >= eps), first, points.clamp(first, last))
    return replace(ball, center=center, eps=small)


@dataclass(frozen=True)
class Mixture(ABC):
    """MTL-, CC- and Exp-IBP. Of several norms, a point's attack is the one with the largest loss."""

    settings: ExpressiveSettings

    def __call__(self, batch: Batch) -> tuple[Tensor, list[MarginBounds]]:
        points = worst_of(batch.network, batch.attacked(self.settings.attack), batch.labels)
        attacked, passes = batch.margins_at(points), batch.bounds(self.bounded(batch.balls))
        return torch.stack([self.mix(found, attacked) for found in batch.union.join(passes)]).mean(), passes

    def bounded(self, balls: Sequence[Ball]) -> list[Ball]:
        """The balls of the bounds."""
        shares = [self.settings.bound_radius.get(norm, 1.0) for norm in self.settings.norms]
        return [replace(ball, eps=share * ball.eps) for ball, share in zip(balls, shares, strict=True)]

    @abstractmethod
    def mix(self, bound: Tensor, attacked: Tensor) -> Tensor:
        """The loss of margin bounds and of margins at attacked points, [B, T] each."""


class Multitask(Mixture):
    """MTL-IBP."""

    def mix(self, bound: Tensor, attacked: Tensor) -> Tensor:
        alpha = self.settings.alpha
        return alpha * cross_entropies(bound).mean() + (1 - alpha) * cross_entropies(attacked).mean()


class Convex(Mixture):
    """CC-IBP."""

    def mix(self, bound: Tensor, attacked: Tensor) -> Tensor:
        alpha = self.settings.alpha
        return cross_entropies(alpha * bound + (1 - alpha) * attacked).mean()


class Exponential(Mixture):
    """Exp-IBP; losses below 1e-12, whose powers have no finite gradient at 0, count as that."""

    def mix(self, bound: Tensor, attacked: Tensor) -> Tensor:
        alpha = self.settings.alpha
        certified, found = (cross_entropies(margins).mean().clamp(min=1e-12) for margins in (bound, attacked))
        return certified**alpha * found ** (1 - alpha)


def mean_loss(margins: list[Tensor]) -> Tensor:
    """Mean CE over points and passes."""
    return torch.stack([cross_entropies(found).mean() for found in margins]).mean()


LOSSES: dict[str, Callable[..., RobustLoss]] = {
    "ibp": Certified,
    "crown-ibp": Certified,
    "sabr": SmallBall,
    "mtl-ibp": Multitask,
    "cc-ibp": Convex,
    "exp-ibp": Exponential,
}
"""By the method's name in recipes: R from its settings."""
