"""ReLU stability: adversarial training of networks whose units keep their sign over balls (Xiao et al. 2019).

    loss = CE(f(x_adv), y) + stability * mean over points of -sum_j tanh(1 + l_j u_j) + l1 sum |W|

over all hidden units j with bounds l, u on the ball of the whole radius around the clean point: a unit that is unstable
by far costs 1 more than one that is stable by far. W are the hidden layers as matrices: a kernel counts once for every
place of its output, as in the authors' code. The attack's radius grows by the ramp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.dual import Relaxation, sheared
from robustcli.bounds.types import Bounds
from robustcli.data.specs import spec
from robustcli.networks.layers import Conv2d, Linear
from robustcli.networks.network import Network
from robustcli.norms import exponent
from robustcli.recipes.methods import ReluStability as Settings
from robustcli.recipes.model import Recipe
from robustcli.training.adversarial import attacked_batch
from robustcli.training.interval_pass import clean_pass, first_bounds, through
from robustcli.training.objective import Loss, Moment, Objective
from robustcli.training.ramps import share


def plain_intervals(network: Network, ball: Ball) -> list[Bounds]:
    """Interval arithmetic, layer by layer."""
    first, *others = network.blocks[:-1]
    layers = [first_bounds(first, [ball])]
    for block in others:
        layers.append(through(block, layers[-1]))
    return layers


def improved_intervals(network: Network, ball: Ball) -> list[Bounds]:
    """Interval arithmetic that follows active units down to the input as the linear maps they are (Xiao et al.,
    appendix B). Units that plain intervals show to be stable keep these."""
    nothing = ball.center.new_zeros(ball.size, 1, network.classes)  # hidden bounds alone are wanted
    return sheared(network, ball, nothing, lambda _, bounds: active_or_free(bounds), None, outward=False).layers


def active_or_free(bounds: Bounds) -> Relaxation:
    """Active units as they are, all others anywhere from 0 to u."""
    active, nothing = bounds.active, torch.zeros_like(bounds.upper)
    return Relaxation(active.to(nothing.dtype), torch.where(active, nothing, bounds.upper.relu()))


BOUNDS: dict[str, Callable[[Network, Ball], list[Bounds]]] = {
    "interval": plain_intervals,
    "improved": improved_intervals,
}
"""On hidden layers, by the name in recipes."""


def instability(layers: Sequence[Bounds]) -> Tensor:
    """-sum_j tanh(1 + l_j u_j) over the units of all layers, mean over the points."""
    each = [torch.tanh(1 + bounds.lower * bounds.upper).flatten(1).sum(1) for bounds in layers]
    return -torch.stack(each).sum(0).mean()


def matrix_sum(network: Network) -> Tensor:
    """The sum of the absolute weights of the hidden layers as matrices, borders not cut; biases left out."""
    *hidden, _ = (layer for layer in network.layers if isinstance(layer, Linear | Conv2d))
    places = [layer.out_shape[1] * layer.out_shape[2] if isinstance(layer, Conv2d) else 1 for layer in hidden]
    return torch.stack([count * layer.weight.abs().sum() for count, layer in zip(places, hidden, strict=True)]).sum()


@dataclass(frozen=True)
class StabilityLoss:
    """The objective.

    Args:
        settings: attack, bounds, weights.
        eps: radius per norm, of the bounds' and the attack's.
        box: input box, or None.
    """

    settings: Settings
    eps: Mapping[str, float]
    box: tuple[float, float] | None

    def __call__(self, network: Network, points: Tensor, labels: Tensor, moment: Moment) -> Loss:
        settings, grown = self.settings, share(self.settings.ramp, moment)
        _, seen = clean_pass(network, points)
        radii = {norm: grown * eps for norm, eps in self.eps.items()}
        moved = attacked_batch(network, points, labels, settings.attack, radii, self.box, moment.generator)
        logits = seen(moved)
        ball = Ball.around(points, self.eps[settings.norm], exponent(settings.norm), self.box)
        layers = BOUNDS[settings.bounds](seen, ball)
        attacked, unstable = F.cross_entropy(logits, labels), instability(layers)
        total = attacked + settings.stability * unstable
        if settings.l1 > 0:
            total = total + settings.l1 * matrix_sum(network)
        count = torch.stack([bounds.unstable.flatten(1).sum(1) for bounds in layers]).sum(0)
        return Loss(total, logits, {"ce": attacked, "unstable": count.to(total.dtype).mean()})


def make(settings: Settings, recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of method `relu-stability`, inside the data set's input box."""
    eps: dict[str, float] = {norm: recipe.eps[norm] for norm in {settings.norm, *settings.attack.norms}}
    return StabilityLoss(settings, eps, spec(recipe.dataset).box)
