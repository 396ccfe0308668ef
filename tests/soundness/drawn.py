"""Random networks, and inputs of the ball that they misclassify, as near to the points as a search by gradients comes.

Nothing is known about the nearest misclassified input, but the one found is often nearly it: a bound that is tight, yet
wrong by more than the room it has, proves too much somewhere here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.balls import Ball, vector_norm
from robustcli.networks.network import Network, margins
from tests.nets import STACKS, convolutional, dense, randomised
from tests.soundness.planted import Box, Planted, steepest

WIDEST = {1.0: 2.0, 2.0: 1.0, math.inf: 0.4}
"""Radii within which inputs are looked for; those of other norms are l2's."""
BEHIND = 1e-8
"""Their margin, relative to the logits."""
SAMPLES, TURNS, HALVINGS = 40, 4, 40


def _batch_normalised(seed: int) -> Network:
    """Convolutions without a ReLU between them, a batch normalisation, an average pooling, odd strides."""
    layers: list[dict[str, object]] = [
        {"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "padding": 1},
        {"type": "batchnorm"},
        {"type": "conv2d", "in": 2, "out": 2, "kernel": 3, "padding": 1},
        {"type": "relu"},
        {"type": "avgpool2d", "kernel": 2, "stride": 1},
        {"type": "conv2d", "in": 2, "out": 3, "kernel": 5, "stride": 2, "padding": 2},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 12, "out": 3},
    ]
    return randomised({"input_shape": [1, 5, 5], "layers": layers}, seed)


def _stack(name: str, seed: int) -> Network:
    return randomised(STACKS[name].describe(), seed)


MAKERS = {
    "linear": lambda seed: dense([4, 3], seed),
    "one hidden layer": lambda seed: dense([4, 6, 3], seed),
    "two hidden layers": lambda seed: dense([3, 5, 4, 3], seed),
    "normalised convolutions": lambda seed: convolutional(seed, side=5, normalise=True),
    "stacked convolutions": _batch_normalised,
    "filters with gaps": lambda seed: _stack("filters with gaps", seed),
}


def drawn(name: str, p: float, box: Box, count: int, seed: int) -> Planted | None:
    """A random network and up to `count` of its points with a misclassified input each; None where there is none.

    Args:
        name: of MAKERS.
        p: exponent of the norm; box: input box, or None.
        seed: of everything that is drawn.
    """
    random = torch.Generator().manual_seed(seed)
    network = MAKERS[name](seed)
    shape = (count, *network.input_shape)
    points = (torch.rand(shape, generator=random, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)  # some on faces
    network.layers[-1].bias.data -= network(points).mean(0)  # so that all classes occur
    labels = network(points).argmax(1)
    search = p if p in WIDEST else 2.0  # any misclassified input will do: its distance counts
    widest = torch.full((count,), WIDEST[search], dtype=torch.float64)
    ball = Ball(points, widest, search, box)
    near = _nearest(network, points, labels, ball.sample(SAMPLES, random), p)
    for _ in range(TURNS):
        further = _downhill(network, points, labels, near, p, box)
        near = _nearest(network, points, labels, torch.stack([near, further], 1), p)
    # Where all logits are alike, rounding decides who wins: no question.
    clear = margins(network(points), labels) > BEHIND
    found = near.flatten(1).isfinite().all(1) & clear
    if not bool(found.any()):
        return None
    points, labels, near = points[found], labels[found], near[found]
    distances = vector_norm((near - points).flatten(1), p)
    return Planted(name, network, p, box, points, near, labels, distances, False)


def _wrong(network: Network, x: Tensor, labels: Tensor) -> Tensor:
    logits = network(x)
    return margins(logits, labels) < -BEHIND * logits.abs().amax(1)


def _nearest(network: Network, points: Tensor, labels: Tensor, candidates: Tensor, p: float) -> Tensor:
    """The nearest of the misclassified inputs just beyond the border on the way to candidates [B, N, *input_shape];
    not a number where no candidate is misclassified."""
    count = candidates.shape[1]
    start, ends = points.repeat_interleave(count, 0), candidates.flatten(0, 1).nan_to_num()
    every, way = labels.repeat_interleave(count), ends - start
    low, high = (torch.full_like(start.flatten(1)[:, 0], end) for end in (0.0, 1.0))
    view = (-1, *[1] * (points.dim() - 1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        wrong = _wrong(network, start + middle.view(view) * way, every)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    border = start + high.view(view) * way
    usable = _wrong(network, border, every) & candidates.flatten(0, 1).flatten(1).isfinite().all(1)
    distances = torch.where(usable, vector_norm((border - start).flatten(1), p), math.inf).view(-1, count)
    least, best = distances.min(1)
    found = border.view(candidates.shape)[torch.arange(len(points)), best]
    return torch.where(least.isfinite().view(view), found, math.nan)


def _downhill(network: Network, points: Tensor, labels: Tensor, near: Tensor, p: float, box: Box) -> Tensor:
    """Steps of the length of what is known, a tenth longer, where the margin's gradient there says it falls fastest."""
    at = near.nan_to_num().requires_grad_()
    (gradient,) = torch.autograd.grad(margins(network(at), labels).sum(), at)
    length = vector_norm((near - points).flatten(1), p).nan_to_num() * 1.1
    if box is not None and (p in (1, 2) or math.isinf(p)):
        return Ball(points, length, p, box).minimiser(gradient.unsqueeze(1))[:, 0]
    moved = points.flatten(1) - length.unsqueeze(1) * steepest(gradient.flatten(1), p)
    moved = moved if box is None else moved.clamp(*box)
    return moved.view(points.shape)
