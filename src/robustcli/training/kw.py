"""KW: training on the bound over the convex outer polytope (003).

    loss = CE(-J(x), y),   J_t(x) <= min over the ball of f_y - f_t,   J_y = 0        (003 Theorem 2, eq. 14)

an upper bound on the cross-entropy of the worst point of the ball. J is the dual bound of `bounds.dual`; gradients
flow through its slopes and intermediate bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.data.specs import spec
from robustcli.errors import RecipeError
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import exponent
from robustcli.recipes.methods import ConvexPolytope as Settings
from robustcli.recipes.model import Recipe
from robustcli.training.objective import Loss, Moment, Objective


def scheduled_eps(settings: Settings, eps: float, epoch: int) -> float:
    """The radius of an epoch (1..E): linear from start_eps in epoch 1 to eps in epoch ramp_epochs + 1, then eps.

    eps_t = s + t / R (eps - s) for t = epoch - 1 <= R (the schedule of 003's scripts, where R is half of all epochs).
    """
    if settings.start_eps is None or settings.ramp_epochs == 0:
        return eps
    return settings.start_eps + min((epoch - 1) / settings.ramp_epochs, 1.0) * (eps - settings.start_eps)


def robust_logits(network: Network, ball: Ball, labels: Tensor) -> Tensor:
    """-J over all K classes, with 0 for the label itself: [B, K]."""
    rows, targets = margin_rows(labels, network.classes, ball.center.dtype)
    margins = dual(network, ball, rows, outward=False).margins
    return margins.new_zeros(len(labels), network.classes).scatter(1, targets, -margins)


@dataclass(frozen=True)
class RobustCrossEntropy:
    """The objective.

    Args:
        settings: norm, box, schedule of eps.
        eps: final radius.
        box: input box to cut the ball with, or None.
    """

    settings: Settings
    eps: float
    box: tuple[float, float] | None

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        eps = scheduled_eps(self.settings, self.eps, moment.epoch)
        ball = Ball.around(points, eps, exponent(self.settings.norm), self.box)
        worst = robust_logits(network, ball, labels)
        total = F.cross_entropy(worst, labels)
        clean = network(points).detach()
        robust_error = (worst.detach().amax(1) > 0).to(total.dtype).mean()
        return Loss(total, clean, {"robust_error": robust_error, "eps": total.new_tensor(eps, dtype=torch.float64)})


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `kw` for the recipe's eps in the method's norm."""
    if settings.norm not in recipe.eps:
        raise RecipeError(f"recipe {recipe.name} trains for {settings.norm} without a radius", "add it to eps")
    box = spec(recipe.dataset).box if settings.boxed else None
    return RobustCrossEntropy(settings, recipe.eps[settings.norm], box)
