"""The IBP family: losses of bounds that one or two forward passes give, alone or mixed with attacked points.

    loss = kappa CE(f(x), y) + (1 - kappa) R + s (1 - f) (widening + imbalance) + l1 sum |w|

R is the method's own (`training.expressive`), of bounds over balls of radius f eps_factor eps; f grows from 0 to 1
(`training.ramps`) and takes kappa and beta along. The regulariser of Shi et al. (`training.width`) fades as f grows.

    IBP         Gowal et al. 2018                CROWN-IBP   Zhang et al. 2020
    SABR        Mueller et al. 2023              MTL-, CC-, Exp-IBP   De Palma et al. 2024
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.relaxation import adaptive
from robustcli.data.specs import spec
from robustcli.networks.layers import Conv2d, Linear
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import exponent
from robustcli.recipes.methods import CrownIntervals
from robustcli.recipes.methods import Intervals as Settings
from robustcli.recipes.model import Recipe
from robustcli.training import width
from robustcli.training.expressive import LOSSES, UNIONS, Batch, RobustLoss
from robustcli.training.interval_pass import clean_pass
from robustcli.training.objective import Loss, Moment, Objective
from robustcli.training.ramps import mixed, share
from robustcli.training.terms import Pass, Term, added
from robustcli.training.tightness import terms

SMALLEST = 1e-5
"""f where the ramp says 0: R is then the clean loss to rounding, and the regulariser has intervals to work on."""


@dataclass(frozen=True)
class IntervalLoss:
    """The objective.

    Args:
        settings: norms, schedules, weights.
        eps: final radius of each norm, factor included.
        box: input box of the norms that are boxed, or None.
        robust: R.
        terms: added while margins take a share from CROWN-IBP.
    """

    settings: Settings
    eps: Mapping[str, float]
    box: tuple[float, float] | None
    robust: RobustLoss
    terms: tuple[Term, ...] = ()

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        settings, grown = self.settings, share(self.settings.ramp, moment)
        logits, seen = clean_pass(network, points)
        rows, _ = margin_rows(labels, network.classes, points.dtype)
        radii = {norm: max(grown, SMALLEST) * eps for norm, eps in self.eps.items()}
        batch = Batch(
            network=network,
            seen=seen,
            points=points,
            labels=labels,
            rows=rows,
            balls=[self.ball(points, norm, eps) for norm, eps in radii.items()],
            radii=list(radii.values()),
            beta=mixed(settings.beta, grown),
            union=UNIONS[settings.union],
            generator=moment.generator,
        )
        robust, passes = self.robust(batch)
        clean, kappa = F.cross_entropy(logits, labels), mixed(settings.kappa, grown)
        total = kappa * clean + (1 - kappa) * robust
        if settings.stability * (1 - grown) > 0:
            first = seen.blocks[0]
            uneven = [
                width.widening(found.layers, width.input_radius(first, found.layers[0])) + width.imbalance(found.layers)
                for found in passes
            ]
            total = total + settings.stability * (1 - grown) * torch.stack(uneven).mean()
        if settings.l1 > 0:
            total = total + settings.l1 * weight_sum(network)
        met = zip(batch.union.split(batch.balls), passes, strict=True)
        related = [Pass(seen, ball, rows, found) for balls, found in met for ball in balls]
        more, parts = added(self.terms if batch.beta > 0 else (), related, moment)
        lowest = torch.stack([found.margins.detach().amin(1) for found in passes]).amin(0)
        # Not `lowest <= 0`: a bound that is not a number certifies nothing.
        open_points = (~(lowest > 0)).to(total.dtype).mean()
        return Loss(total + more, logits, {"ce": clean, "robust": robust, "robust_error": open_points} | parts)

    def ball(self, points: Tensor, norm: str, eps: float) -> Ball:
        """The balls of a norm around all points."""
        box = self.box if norm in self.settings.boxed else None
        return Ball(points, points.new_full((len(points),), eps), exponent(norm), box)


def weight_sum(network: Network) -> Tensor:
    """The sum of the absolute weights of all linear and convolutional layers, biases left out."""
    sums = [layer.weight.abs().sum() for layer in network.layers if isinstance(layer, Linear | Conv2d)]
    return torch.stack(sums).sum()


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of the methods `ibp`, `crown-ibp`, `mtl-ibp`, `cc-ibp`, `exp-ibp` and `sabr`."""
    eps: dict[str, float] = {norm: settings.eps_factor * recipe.eps[norm] for norm in settings.norms}
    regularised = terms(settings.tightness, adaptive) if isinstance(settings, CrownIntervals) else ()
    return IntervalLoss(settings, eps, spec(recipe.dataset).box, LOSSES[recipe.method.name](settings), regularised)
