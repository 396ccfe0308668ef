"""Batch normalisation: put in for training, folded into the weights before it, so that nothing later meets it."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from robustcli.networks.layers import BatchNorm, Conv2d, Linear
from robustcli.networks.network import Network


def with_batch_norm(description: dict[str, Any]) -> dict[str, Any]:
    """The description of a network (`Network.describe`) with batch normalisation before every ReLU."""
    layers: list[dict[str, Any]] = []
    for layer in description["layers"]:
        layers += [{"type": "batchnorm"}, layer] if layer["type"] == "relu" else [layer]
    return description | {"layers": layers}


@torch.no_grad()
def folded(network: Network) -> Network:
    """The network at evaluation with each batch normalisation merged into the linear or convolutional layer before it.

        s (W x + b) + t = (s W) x + (s b + t)

    computed in float64 and rounded once to the network's precision. Without batch normalisation: the network itself.

    Raises:
        ValueError: when one stands behind another kind of layer.
    """
    if not any(isinstance(layer, BatchNorm) for layer in network.layers):
        return network
    exact, description = network.double(), network.describe()
    description["layers"] = [layer for layer in description["layers"] if layer["type"] != "batchnorm"]
    kept = [layer for layer in exact.layers if not isinstance(layer, BatchNorm)]
    for layer, after in itertools.pairwise(exact.layers):
        if not isinstance(after, BatchNorm):
            continue
        if not isinstance(layer, Linear | Conv2d):
            raise ValueError(f"batch normalisation behind a layer of type {type(layer).__name__} cannot be folded")
        scale, shift = (part.flatten() for part in after.scale_shift())
        layer.bias.copy_(scale * layer.bias + shift)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    found = Network.from_description(description).to(network.device, network.dtype)
    for layer, value in zip(found.layers, kept, strict=True):
        layer.load_state_dict(value.state_dict())
    return found.train(network.training)
