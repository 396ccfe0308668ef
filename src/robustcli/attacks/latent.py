"""Latent adversarial points as starts (002, section 4 and appendix A): attacks in zonotopes, brought back to the input.

Behind the first k ReLUs a zonotope holds all values that the l_inf ball can lead to, as a function of error terms
e_0, ..., e_k in [-1, 1] (`bounds.latent`). Gradient steps on them lower the margin of the layers above. What they find
there may be no value of any input, but e_0 is the input's own error term: with m and h the middle and the half widths
of the ball cut with the box, the input m + h e_0 is where the search starts that decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task, lowest_margin
from robustcli.attacks.noise import streams, uniform
from robustcli.attacks.pace import adaptive
from robustcli.attacks.search import Aim, descend, padded
from robustcli.attacks.settings_regions import LatentSettings
from robustcli.attacks.training import evaluating
from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.latent import Region, above
from robustcli.bounds.types import Bounds
from robustcli.errors import UnknownNameError
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import norm_name

STREAM = streams("latent")


def latent(task: Task, settings: LatentSettings) -> Found:
    """Look for a misclassified point of each ball from latent adversarial points (goal: a fixed radius; linf).

    Raises:
        UnknownNameError: for another norm.
    """
    if not math.isinf(task.ball.p):
        raise UnknownNameError("norm of this attack", norm_name(task.ball.p), ["linf"])
    found = task.nothing()
    finite = torch.isfinite(torch.stack([end.flatten(1).abs().amax(1) for end in task.ball.bounding_box()])).all(0)
    todo = (~found.success & finite & (task.ball.eps > 0) & task.rivals.any(1)).nonzero().squeeze(1)
    depths = range(1, min(settings.depth, len(task.network.blocks) - 1) + 1)
    with evaluating(task.network):
        for block, part in task.take(todo).blocks() if depths else ():
            rows = todo[block]
            layers = _bounds(task.exact, task.ball.take(rows), task.labels[rows], part)
            for depth in depths:
                run = _run(part, layers[:depth], settings)
                found = _folded(found, rows, run)
    return found


def _folded(found: Found, rows: Tensor, run: Found) -> Found:
    """The better answer of some rows [n]; successes keep their place, and cost nothing more."""
    standing = (~found.success[rows]).nonzero().squeeze(1)
    rows = rows[standing]
    return found.with_rows(rows, found.take(rows).or_else(run.take(standing), lowest_margin))


@torch.no_grad()
def _bounds(exact: Network, ball: Ball, labels: Tensor, part: Task) -> list[Bounds]:
    """Of the hidden layers, in the precision of the search, filled up to the rows of the block."""
    rows, _ = margin_rows(labels, exact.classes, ball.center.dtype)
    index = padded(torch.arange(len(labels), device=labels.device), len(part))
    dtype = part.network.dtype
    layers = dual(exact, ball, rows[:, :0]).layers
    return [Bounds(layer.lower.to(dtype)[index], layer.upper.to(dtype)[index]) for layer in layers]


def _run(task: Task, layers: Sequence[Bounds], settings: LatentSettings) -> Found:
    """One latent attack at one depth, and the search from its input."""
    ball = task.ball.to(task.network.dtype)
    region, aim = Region.of(task.network, ball, layers), Aim(task.labels, task.rivals)
    shapes = [task.network.input_shape, *(layer.lower.shape[1:] for layer in layers)]
    first = STREAM + 64 * len(layers)
    errors = [
        (2 * uniform(task.seeds, first + number, math.prod(shape)) - 1).view(-1, *shape).to(ball.center)
        for number, shape in enumerate(shapes)
    ]
    with torch.enable_grad():
        for _ in range(settings.latent_steps):
            errors = [error.requires_grad_() for error in errors]
            objective = aim.values(above(task.network, region.depth, region.point(errors)))
            gradients = torch.autograd.grad(objective.sum(), errors)
            errors = [
                (error.detach() - settings.step_size * gradient.sign().nan_to_num(0)).clamp(-1, 1)
                for error, gradient in zip(errors, gradients, strict=True)
            ]
    start = region.middle + region.half * errors[0].detach()
    reached = descend(task.network, ball, aim, start, adaptive(ball, settings.steps), settings.steps)
    return task.judge(reached.points).spent(reached.passes + 2 * settings.latent_steps)
