"""Interval and CROWN-IBP bounds of one batch as training needs them: over unions of balls, with gradients, in float32.

For several norms the first layer takes, unit by unit, the smallest lower and the largest upper bound over all balls;
the rest is one interval pass at the cost of one norm. It holds on the convex hull of the balls as well, on which linear
functions have the same extremes.

Batch normalisation is the affine map of this batch: `clean_pass` takes its statistics from the clean points, and every
bound and attacked point of the step goes through that map (Shi et al. 2021). Gradients flow through the statistics.

No rounding is added: a training loss certifies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins
from robustcli.bounds.interval import at_logits, first_layer, linear_margins, unit_reaches
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.layers import Affine, BatchNorm, Diagonal, ReLU, Shape
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows


class Scaling(Diagonal):
    """x * scale + shift with given tensors, which keep their gradients."""

    def __init__(self, shape: Shape, scale: Tensor, shift: Tensor) -> None:
        super().__init__(shape, shape)
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.shift

    def describe(self) -> dict[str, object]:
        raise TypeError("this layer is one batch's own and is never stored")


def clean_pass(network: Network, points: Tensor) -> tuple[Tensor, Network]:
    """Logits of the clean points [B, K], and the network with each batch normalisation as the map it was for them.

    Running statistics move along, in training mode. Without batch normalisation the network is returned as it is.
    """
    if not any(isinstance(layer, BatchNorm) for layer in network.layers):
        return network(points), network
    layers: list[Affine | ReLU] = []
    for layer in network.layers:
        own = _for_batch(layer, points) if isinstance(layer, BatchNorm) else cast(Affine | ReLU, layer)
        points = layer(points)
        layers.append(own)
    return points, Network(layers, network.input_shape, network.name)


def _for_batch(layer: BatchNorm, values: Tensor) -> Scaling:
    """The layer's map for values [B, C] or [B, C, H, W]: their own statistics, at evaluation the running ones."""
    if not layer.training:
        return Scaling(layer.in_shape, *layer.scale_shift())
    over = [0, *range(2, values.dim())]
    variance, mean = torch.var_mean(values, over, correction=0)
    scale = layer.weight / (variance + layer.guard).sqrt()
    view = (-1, *[1] * (len(layer.in_shape) - 1))
    return Scaling(layer.in_shape, scale.view(view), (layer.bias - mean * scale).view(view))


def first_bounds(block: Block, balls: Sequence[Ball]) -> Bounds:
    """Exact bounds of the first layer over the union of the balls, which have one radius a norm.

    Without a box a unit falls as far as it rises. Where such balls share their middles, their largest radius is found
    on one point, before any tensor of the size of the batch.
    """
    parts = [first_layer(block, ball) for ball in balls if ball.box is not None]
    free = [ball for ball in balls if ball.box is None]
    for center in {id(ball.center): ball.center for ball in free}.values():
        reaches = [unit_norms(block, ball) * ball.eps.amax() for ball in free if ball.center is center]
        middle, radius = block(center), torch.stack(reaches).amax(0)
        parts.append(Bounds(middle - radius, middle + radius))
    found = parts[0]
    for part in parts[1:]:
        found = Bounds(torch.minimum(found.lower, part.lower), torch.maximum(found.upper, part.upper))
    return found


def unit_norms(block: Block, ball: Ball) -> Tensor:
    """Dual norms of the rows of the first block, [1, *out_shape]."""
    one = Ball(ball.center[:1], torch.ones_like(ball.eps[:1]), ball.p)
    units = torch.arange(block.units, device=ball.center.device)
    return unit_reaches(block, one, torch.zeros_like(units), units)[0].view(1, *block.out_shape)


def bounds(network: Network, balls: Sequence[Ball], rows: Tensor, beta: float = 0.0) -> MarginBounds:
    """Bounds over the union of the balls: beta CROWN-IBP + (1 - beta) interval margins (Zhang et al. 2020).

    Args:
        network: without batch normalisation in training mode (`clean_pass`).
        balls: of the same B points, one a norm.
        rows: functionals of the logits, [B, T, K].
        beta: share of CROWN-IBP, which costs a backward pass a norm.
    """
    blocks = network.blocks
    if len(blocks) == 1:
        return MarginBounds(torch.stack([linear_margins(blocks[0], ball, rows) for ball in balls]).amin(0), [])
    layers = [first_bounds(blocks[0], balls)]
    for block in blocks[1:-1]:
        layers.append(through(block, layers[-1]))
    margins = last_margins(blocks[-1], layers[-1], rows)
    if beta > 0:
        found = [backward_margins(network, ball, rows, layers, adaptive, outward=False) for ball in balls]
        margins = beta * torch.stack(found).amin(0) + (1 - beta) * margins
    return MarginBounds(margins, layers)


def through(block: Block, before: Bounds) -> Bounds:
    """Interval bounds after relu and block, from bounds before the ReLU."""
    middle, radius = rectified(before)
    centre, reach = block(middle), block.magnitude(radius)
    return Bounds(centre - reach, centre + reach)


def rectified(bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Middle and radius of the interval behind the ReLU. (Products by 0.5: a division takes three times as long.)"""
    upper = bounds.upper.relu()
    middle = 0.5 * (bounds.lower.relu() + upper)
    return middle, upper - middle


def last_margins(block: Block, before: Bounds, rows: Tensor) -> Tensor:
    """Interval bounds on rows @ block(relu(z)), the rows merged into the block: [B, T]."""
    middle, radius = rectified(before)
    pulled = Rows.whole(rows).through(block).values.view(*rows.shape[:2], -1)
    return at_logits(rows, block(middle)) - (pulled.abs() * radius.flatten(1).unsqueeze(1)).sum(-1)


def cross_entropies(margins: Tensor) -> Tensor:
    """log(1 + sum_t exp(-m_t)) of margins f_y - f_t, [B, T] -> [B]."""
    return F.softplus(torch.logsumexp(-margins, 1))
