"""The regulariser of Shi et al. (2021, section 3.3): intervals that neither widen from layer to layer nor settle ReLUs
all one way, while the radius still grows.

With mean interval radius r_l of layer l (over points and units), r_0 that of the input, tolerance tau = 1/2:

    widening  = mean over l of  [tau - r_0 / r_l]_+ / tau
    imbalance = mean over l of  ([tau - min(q, 1/q)]_+ + [tau - min(v, 1/v)]_+) / tau

q weighs active against inactive units by their interval centres, v by the squared distance of these to their mean; a
layer without active or without inactive units is left out.

An l1 or l2 ball, or a union, has no interval at the input: r_0 is the radius of the linf ball that would give the first
layer its mean radius, r_1 / mean |W_1| 1, as a constant. For unboxed linf balls that is eps itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.bounds.types import Bounds
from robustcli.networks.layers import Normalise
from robustcli.networks.network import Block

TOLERANCE = 0.5


def input_radius(block: Block, first: Bounds) -> Tensor:
    """r_0, a scalar, of inputs as they come out of a normalisation layer."""
    layers = [layer for layer in block.layers if not isinstance(layer, Normalise)]
    ones = first.lower.new_ones(1, *layers[0].in_shape)
    return (radius(first) / Block(layers).magnitude(ones).mean()).detach()


def radius(bounds: Bounds) -> Tensor:
    """Mean interval radius of a layer, a scalar."""
    return (bounds.upper - bounds.lower).mean() / 2


def widening(layers: Sequence[Bounds], start: Tensor) -> Tensor:
    """By how much intervals widen from the input, with mean radius `start`, to each hidden layer."""
    small = torch.finfo(start.dtype).tiny
    return torch.stack([shortfall(start / radius(bounds).clamp(min=small)) for bounds in layers]).mean()


def imbalance(layers: Sequence[Bounds]) -> Tensor:
    """How unlike active and inactive units are in each hidden layer."""
    return torch.stack([_imbalance(bounds) for bounds in layers]).mean()


def _imbalance(bounds: Bounds) -> Tensor:
    middle = ((bounds.lower + bounds.upper) / 2).flatten()
    mean, square = middle.mean(), middle.square()
    sums, spreads = [], []
    for settled in (bounds.lower > 0, bounds.upper < 0):
        chosen = settled.flatten().to(middle.dtype)
        # Sum of (m - mean)^2 over the chosen ones, from three products of vectors.
        own, count = middle @ chosen, chosen.sum()
        sums.append(own)
        spreads.append((square @ chosen - 2 * mean * own + mean.square() * count).clamp(min=0))
    return shortfall(ratio(sums[0], -sums[1])) + shortfall(ratio(spreads[0], spreads[1]))


def ratio(first: Tensor, second: Tensor) -> Tensor:
    """min(q, 1/q) for q = first / second; 1 where one of them is 0."""
    usable = (first > 0) & (second > 0)
    one = torch.ones_like(first)
    first, second = torch.where(usable, first, one), torch.where(usable, second, one)
    return torch.minimum(first / second, second / first)


def shortfall(value: Tensor) -> Tensor:
    """[tau - value]_+ / tau."""
    return (TOLERANCE - value).clamp(min=0) / TOLERANCE
