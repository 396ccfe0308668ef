"""The zonotope with learned slopes (002, section 4.2; Singh et al. 2018): the KW dual with every slope left free.

An unstable ReLU lies between two lines of one slope, and its distance from their middle is a new error term:

    lambda z  <=  relu(z)  <=  lambda z + gap,      gap = max(-lambda l, (1 - lambda) u),      any lambda in [0, 1]

At lambda = u/(u-l) the gap is smallest, and the zonotope is the KW dual. All rows share the slopes, so that all bounds
come in centre and radius (`dual`); what is lost in area may be won in the margins. As in 002 the slopes of all layers
ascend together, by gradients that run through the hidden bounds too, on the cross-entropy of the margins; here over any
ball, in float32, and the best slopes are evaluated once in the network's own precision, safe against rounding.
Slopes for one margin alone may do better on it (`zonotope_per_class`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.dual import Relaxation, dual, parallelogram, sheared
from robustcli.bounds.interval import at_logits
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network

SURE = 1e-4  # of the clean margins: a float32 margin above this share of them is taken for positive by the search


@dataclass(frozen=True)
class ZonotopeSettings:
    """How hard to search: Adam, as in 002's certification.

    Args:
        iterations: evaluations of the bounds, the first one with the slopes of the KW dual.
        rate: of the first steps.
        decay: of the rate, after every `period` steps.
        period: see there.
    """

    iterations: int = 60
    rate: float = 0.1
    decay: float = 0.1
    period: int = 30


@torch.no_grad()
def zonotope(
    network: Network,
    ball: Ball,
    rows: Tensor,
    *,
    known: Sequence[Bounds] | None = None,
    outward: bool = True,
    settings: ZonotopeSettings | None = None,
) -> MarginBounds:
    """Zonotope bounds for the hidden layers and lower bounds on rows @ logits; never looser than `dual` or `known`.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls, any p, boxed or not (boxed: p = 1, 2 or inf).
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        known: sound bounds on the hidden layers over the same balls.
        outward: widen every bound by the rounding error.
        settings: how hard to search. Points whose margins the dual proves positive are not searched.
    Returns:
        margins [B, T] (without gradients) and the hidden bounds.
    """
    settings = settings or ZonotopeSettings()
    start = dual(network, ball, rows, known=known, outward=outward)
    todo = (~(start.margins > 0)).any(1).nonzero().squeeze(1)
    if not start.layers or len(todo) == 0:
        return start
    single = copy.deepcopy(network).float().requires_grad_(False)
    margins = start.margins.clone()
    layers = [Bounds(bounds.lower.clone(), bounds.upper.clone()) for bounds in start.layers]
    # Image by image on a CPU: a point's result is then the same whatever else is in the batch.
    for images in todo.split(1 if todo.device.type == "cpu" else len(todo)):
        here = [bounds.take(images) for bounds in start.layers]
        around, asked = ball.take(images), rows[images]
        slopes = [slope.to(rows) for slope in learned(single, around, asked, here, settings)]
        found = sheared(network, around, asked, _Chosen(slopes), here, outward)
        margins[images] = torch.fmax(margins[images], found.margins)  # fmax: what is not a number proves nothing
        for whole, part in zip(layers, found.layers, strict=True):
            whole.lower[images], whole.upper[images] = part.lower, part.upper
    return MarginBounds(margins, layers)


@torch.no_grad()
def zonotope_per_class(
    network: Network,
    ball: Ball,
    rows: Tensor,
    *,
    known: Sequence[Bounds] | None = None,
    outward: bool = True,
    settings: ZonotopeSettings | None = None,
) -> MarginBounds:
    """`zonotope` with slopes of its own for every row that the dual leaves open: one search each (002's per class).

    Arguments and result are those of `zonotope`; the hidden bounds are the tightest of all searches for a ball.
    """
    start = dual(network, ball, rows, known=known, outward=outward)
    images, places = (~(start.margins > 0)).nonzero().unbind(1)
    if not start.layers or len(images) == 0:
        return start
    known = [bounds.take(images) for bounds in start.layers]
    asked = rows[images, places].unsqueeze(1)
    found = zonotope(network, ball.take(images), asked, known=known, outward=outward, settings=settings)
    margins = start.margins.clone()
    margins[images, places] = torch.fmax(margins[images, places], found.margins.squeeze(1))
    layers = [_tightest(whole, images, part) for whole, part in zip(start.layers, found.layers, strict=True)]
    return MarginBounds(margins, layers)


def _tightest(whole: Bounds, images: Tensor, found: Bounds) -> Bounds:
    """Bounds of all points intersected with those found for some, which may name a point several times."""
    index = images.view(-1, *[1] * (found.lower.dim() - 1)).expand_as(found.lower)
    lower = whole.lower.scatter_reduce(0, index, found.lower, "amax")
    return Bounds(lower, whole.upper.scatter_reduce(0, index, found.upper, "amin"))


def learned(
    single: Network, ball: Ball, rows: Tensor, known: Sequence[Bounds], settings: ZonotopeSettings
) -> list[Tensor]:
    """Slopes of all hidden layers, [B, *shape] each, with the largest worst margin of all iterations, per point.

    Args:
        single: the network in float32.
        ball, rows: as in `zonotope`.
        known: sound hidden bounds; their KW slopes are the start.
        settings: how hard to search.
    """
    ball, rows = ball.to(torch.float32), rows.float()
    known = [Bounds(bounds.lower.float(), bounds.upper.float()) for bounds in known]
    enough = SURE * at_logits(rows, single(ball.center)).abs().amax(1)
    slopes = [parallelogram(bounds).slope.requires_grad_() for bounds in known]
    best, kept = torch.full_like(enough, -torch.inf), [slope.detach().clone() for slope in slopes]
    optimiser = torch.optim.Adam(slopes, lr=settings.rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, settings.period, settings.decay)
    for _ in range(settings.iterations):
        with torch.enable_grad():
            margins = sheared(single, ball, rows, _Chosen(slopes), known, outward=False).margins
            loss = F.softplus(torch.logsumexp(-margins, dim=1)).sum()  # cross-entropy of the logits (0, -margins)
        worst = margins.detach().amin(1)
        better = worst > best
        best = torch.where(better, worst, best)
        for keep, slope in zip(kept, slopes, strict=True):
            keep[better] = slope.detach()[better]
        if bool((best > enough).all()):
            break
        gradients = torch.autograd.grad(loss, slopes)
        for slope, gradient in zip(slopes, gradients, strict=True):
            slope.grad = gradient
        optimiser.step()
        schedule.step()
        for slope in slopes:
            slope.clamp_(0, 1)
    return kept


@dataclass(frozen=True)
class _Chosen:
    """The relaxation with given slopes, one [B, *shape] a hidden layer."""

    slopes: Sequence[Tensor]

    def __call__(self, layer: int, bounds: Bounds) -> Relaxation:
        unstable = bounds.unstable
        slope = torch.where(unstable, self.slopes[layer], bounds.active.to(bounds.lower.dtype))
        gap = torch.maximum(-slope * bounds.lower, (1 - slope) * bounds.upper)
        return Relaxation(slope, torch.where(unstable, gap, torch.zeros_like(gap)))
