"""Initial weights: their distribution, and that the seed alone decides."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.errors import UnknownNameError
from robustcli.networks.architectures import build
from robustcli.networks.initialisation import KINDS, initialise
from robustcli.networks.network import Network


def fresh(kind: str, seed: int) -> Network:
    network = build("cnn", (1, 28, 28), 10)
    initialise(network, kind, torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: str) -> None:
    torch.manual_seed(1)
    first = fresh(kind, 5).weights_hash()
    torch.manual_seed(2)
    assert fresh(kind, 5).weights_hash() == first
    assert fresh(kind, 6).weights_hash() != first


def test_truncated_normal() -> None:
    for layer in fresh("truncated-normal", 0).blocks[2].layers[1:]:
        deviation = math.sqrt(2 / layer.fan_in)
        assert layer.weight.abs().max() <= 2 * deviation
        # a normal cut at two deviations has 0.8796 of its deviation
        assert layer.weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.02)
        assert not layer.bias.any()


def test_torch_default() -> None:
    for layer in fresh("torch", 0).blocks[2].layers[1:]:
        bound = 1 / math.sqrt(layer.fan_in)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert 0 < layer.bias.abs().max() <= bound


def test_unknown_kind() -> None:
    with pytest.raises(UnknownNameError, match="initialisation"):
        initialise(build("2x100", (2,), 2), "xavier", torch.Generator())


def test_shi_s_deviations() -> None:
    """N(0, 2 pi / fan_in^2) in hidden layers, torch's own in the last one, no biases in the hidden ones."""
    network = fresh("shi", 0)
    *hidden, last = (layer for layer in network.layers if hasattr(layer, "weight"))
    for layer in hidden:
        weight, expected = layer.weight.detach(), math.sqrt(2 * math.pi) / layer.fan_in
        assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(weight.numel()))
        assert weight.abs().mean().item() == pytest.approx(2 / layer.fan_in, rel=5 / math.sqrt(weight.numel()))
        assert layer.bias.count_nonzero() == 0
    assert last.weight.abs().max().item() <= 1 / math.sqrt(last.fan_in)
    assert last.bias.count_nonzero() > 0
