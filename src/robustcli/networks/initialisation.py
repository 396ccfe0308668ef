"""Initial weights, drawn from an explicit generator: the same seed gives the same network on every machine's CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

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


KINDS: dict[str, Callable[[Weighted, Generator], None]] = {
    "truncated-normal": truncated_normal,
    "torch": torch_default,
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
    for layer in network.layers:
        if isinstance(layer, Linear | Conv2d):
            KINDS[kind](layer, generator)


def _assign(layer: Weighted, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
