"""What the peers' programs take: the network as plain torch modules."""

from __future__ import annotations

import copy

import torch
from torch import nn

from robustcli.networks.layers import Conv2d, Flatten, Linear, Normalise, ReLU
from robustcli.networks.network import Network


def sequential(network: Network) -> nn.Sequential:
    """The network as torch modules with the same weights, without gradients.

    Raises:
        TypeError: for a layer that the peers do not know.
    """
    layers: list[nn.Module] = []
    for layer in network.layers:
        if isinstance(layer, Conv2d):
            channels = (layer.in_shape[0], layer.out_shape[0])
            layers.append(nn.Conv2d(*channels, layer.kernel, layer.stride, layer.padding))
        elif isinstance(layer, Linear):
            layers.append(nn.Linear(layer.in_shape[0], layer.out_shape[0]))
        elif isinstance(layer, Normalise):
            layers.append(copy.deepcopy(layer))
        elif isinstance(layer, Flatten | ReLU):
            layers.append(nn.Flatten() if isinstance(layer, Flatten) else nn.ReLU())
        else:
            raise TypeError(f"the peers have no {type(layer).__name__}")
    model = nn.Sequential(*layers).requires_grad_(False)
    with torch.no_grad():
        for theirs, ours in zip(model.parameters(), network.parameters(), strict=True):
            theirs.copy_(ours)
        x = torch.rand(3, *network.input_shape, device=network.device, dtype=network.dtype)
        torch.testing.assert_close(model(x), network(x), rtol=1e-4, atol=1e-4)
    return model
