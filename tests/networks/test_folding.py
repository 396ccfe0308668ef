"""Batch normalisation folded away: the same function, its bounds those of the folded network."""

from __future__ import annotations

import pytest
import torch

from robustcli.networks.folding import folded, with_batch_norm
from robustcli.networks.layers import BatchNorm
from robustcli.networks.network import Network
from tests.nets import convolutional, dense

PLAIN = [dense([3, 6, 5, 4], seed=1), convolutional(seed=4), convolutional(seed=1, normalise=True)]


def normalised(network: Network, seed: int = 0) -> Network:
    """The network with batch normalisation of random scales, shifts and statistics."""
    found = Network.from_description(with_batch_norm(network.describe())).double()
    generator = torch.Generator().manual_seed(seed)
    kept = [layer for layer in found.layers if not isinstance(layer, BatchNorm)]
    for layer, old in zip(kept, network.layers, strict=True):
        layer.load_state_dict(old.state_dict())
    for layer in found.layers:
        if isinstance(layer, BatchNorm):
            for value in (layer.weight, layer.bias, layer.running_mean):
                value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            layer.running_var = torch.rand(layer.running_var.shape, generator=generator, dtype=torch.float64) + 0.1
    return found.eval()


@pytest.mark.parametrize("plain", PLAIN, ids=["dense", "convolutional", "normalised input"])
def test_the_folded_network_is_the_same_function(plain: Network) -> None:
    network = normalised(plain)
    assert sum(isinstance(layer, BatchNorm) for layer in network.layers) == len(network.blocks) - 1
    found = folded(network)
    assert found.describe()["layers"] == plain.describe()["layers"]
    x = torch.rand(7, *plain.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(found(x), network(x), rtol=0, atol=1e-12)
    assert not torch.allclose(found(x), plain(x), atol=1e-3)


def test_a_network_without_batch_normalisation_stays_as_it_is() -> None:
    assert folded(PLAIN[0]) is PLAIN[0]


def test_batch_normalisation_behind_pooling_is_refused() -> None:
    layers = [
        {"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "padding": 1},
        {"type": "avgpool2d", "kernel": 2},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 8, "out": 2},
    ]
    network = Network.from_description(with_batch_norm({"input_shape": [1, 4, 4], "layers": layers}))
    with pytest.raises(ValueError, match="AvgPool2d"):
        folded(network)
