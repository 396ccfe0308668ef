"""KW: training on the bound over the convex outer polytope (003).

    loss = CE(-J(x), y),   J_t(x) <= min over the ball of f_y - f_t,   J_y = 0        (003 Theorem 2, eq. 14)

an upper bound on the cross-entropy of the worst point of the ball. J is the dual bound of `bounds.dual`, or an estimate
of it by random projections (`bounds.projections`), which is no upper bound; gradients flow through its slopes and
intermediate bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.projections import projected
from robustcli.bounds.relaxation import parallel
from robustcli.bounds.types import MarginBounds
from robustcli.data.specs import spec
from robustcli.errors import RecipeError
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import exponent
from robustcli.recipes.methods import ConvexPolytope as Settings
from robustcli.recipes.model import Recipe
from robustcli.training.objective import Loss, Moment, Objective
from robustcli.training.terms import Pass, Term, added
from robustcli.training.tightness import terms


def scheduled_eps(settings: Settings, eps: float, epoch: int) -> float:
    """The radius of an epoch (1..E): linear from start_eps in epoch 1 to eps in epoch ramp_epochs + 1, then eps.

    eps_t = s + t / R (eps - s) for t = epoch - 1 <= R: the schedule of 003's scripts, where R is half of all epochs.
    Those of 2018 take n values from s to eps, both included: R = n - 1.
    """
    if settings.start_eps is None or settings.ramp_epochs == 0:
        return eps
    return settings.start_eps + min((epoch - 1) / settings.ramp_epochs, 1.0) * (eps - settings.start_eps)


Bound = Callable[[Network, Ball, Tensor], MarginBounds]

exact: Bound = partial(dual, outward=False)


def robust_logits(network: Network, ball: Ball, labels: Tensor, bound: Bound = exact) -> tuple[Tensor, Pass]:
    """-J over all K classes, with 0 for the label itself: [B, K]; and the pass it is from."""
    rows, targets = margin_rows(labels, network.classes, ball.center.dtype)
    found = bound(network, ball, rows)
    worst = found.margins.new_zeros(len(labels), network.classes).scatter(1, targets, -found.margins)
    return worst, Pass(network, ball, rows, found)


@dataclass(frozen=True)
class RobustCrossEntropy:
    """The objective.

    Args:
        settings: norm, box, schedule of eps, exact bounds or estimates.
        eps: final radius.
        box: input box to cut the ball with, or None.
        terms: added to the cross-entropy.
    """

    settings: Settings
    eps: float
    box: tuple[float, float] | None
    terms: tuple[Term, ...] = ()

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        eps = scheduled_eps(self.settings, self.eps, moment.epoch)
        ball = Ball.around(points, eps, exponent(self.settings.norm), self.box)
        count = self.settings.projections
        bound = exact if count is None else partial(projected, count=count, generator=moment.generator)
        worst, seen = robust_logits(network, ball, labels, bound)
        more, parts = added(self.terms, [seen], moment)
        total = F.cross_entropy(worst, labels) + more
        clean = network(points).detach()
        others = worst.detach().scatter(1, labels.unsqueeze(1), -torch.inf)
        robust_error = (~(others.amax(1) < 0)).to(total.dtype).mean()  # a bound that is no number certifies nothing
        told = {"robust_error": robust_error, "eps": total.new_tensor(eps, dtype=torch.float64)}
        return Loss(total, clean, told | parts)


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `kw` for the recipe's eps in the method's norm."""
    if settings.norm not in recipe.eps:
        raise RecipeError(f"recipe {recipe.name} trains for {settings.norm} without a radius", "add it to eps")
    box = spec(recipe.dataset).box if settings.boxed else None
    return RobustCrossEntropy(settings, recipe.eps[settings.norm], box, terms(settings.tightness, parallel))
