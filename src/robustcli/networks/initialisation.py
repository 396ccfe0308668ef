"""Initial weights, drawn from an explicit generator: the same seed gives the same network on every machine's CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robustcli.errors import UnknownNameError
from robustcli.networks.layers import Conv2d, Linear
from robustcli.networks.network import Network

Weighted = Linear | Conv2d


def truncated_normal(layer: Weighted, generator: Generator) -> None:
    """Weights N(0, 2/fan_in) cut at two standard deviations, biases 0 (000, appendix B.1; the authors' code)."""
    deviation = math.sqrt(2 / layer.fan_in)
    weight = torch.empty(layer.weight.shape)
    torch.nn.init.trunc_normal_(weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
    _assign(layer, weight, torch.zeros(layer.bias.shape))


def torch_default(layer: Weighted, generator: Generator) -> None:
    """Weights and biases uniform in +-1/sqrt(fan_in), what `torch.nn.Linear` and `Conv2d` start from."""
    bound = 1 / math.sqrt(layer.fan_in)
    weight = torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=generator)
    _assign(layer, weight, torch.empty(layer.bias.shape).uniform_(-bound, bound, generator=generator))


def width_keeping(layer: Weighted, generator: Generator) -> None:
    """Weights N(0, 2 pi / fan_in^2), biases 0 (Shi et al. 2021, section 3.2): E|w| = 2 / fan_in.

    Behind a ReLU, which halves intervals around 0, sums of fan_in widths times |w| then stay as wide as they were.
    """
    weight = torch.empty(layer.weight.shape).normal_(0.0, math.sqrt(2 * math.pi) / layer.fan_in, generator=generator)
    _assign(layer, weight, torch.zeros(layer.bias.shape))


Draw = Callable[[Weighted, Generator], None]


@dataclass(frozen=True)
class Kind:
    """How hidden layers are drawn, and how the last one is."""

    hidden: Draw
    last: Draw


KINDS: dict[str, Kind] = {
    "truncated-normal": Kind(truncated_normal, truncated_normal),
    "torch": Kind(torch_default, torch_default),
    "shi": Kind(width_keeping, torch_default),
}


def initialise(network: Network, kind: str, generator: Generator) -> None:
    """Draw all linear and convolutional weights anew, in place, first layer first.

    Args:
        network: any device; the numbers are drawn on the CPU in float32.
        kind: a key of `KINDS`.
        generator: a CPU generator.
    Raises:
        UnknownNameError: for an unknown kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("initialisation", kind, KINDS)
    *hidden, last = (layer for layer in network.layers if isinstance(layer, Linear | Conv2d))
    for layer in hidden:
        KINDS[kind].hidden(layer, generator)
    KINDS[kind].last(last, generator)


def _assign(layer: Weighted, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
