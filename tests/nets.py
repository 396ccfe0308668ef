"""Small networks with known answers, shared by the tests."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from robustcli.networks.network import Network


def golden_network() -> tuple[Network, Tensor, Tensor]:
    """Net G, its point x (one row) and its label: the worked example behind the golden numbers."""
    network = Network.from_description(
        {
            "name": "golden",
            "input_shape": [2],
            "layers": [
                {"type": "linear", "in": 2, "out": 4},
                {"type": "relu"},
                {"type": "linear", "in": 4, "out": 3},
                {"type": "relu"},
                {"type": "linear", "in": 3, "out": 3},
            ],
        }
    ).double()
    weights = [
        [[1, -2], [0.5, 1], [-1, 1], [2, 0.5]],
        [[1, -1, 0.5, 0.25], [-0.5, 1, 1, -1], [0.75, 0.5, -1, 1]],
        [[1, -1, 0.5], [-0.5, 1, 1], [0.25, 0.5, -1]],
    ]
    biases = [[0.1, -0.2, 0.3, -1], [0.05, -0.1, 0.2], [0.2, 0, -0.1]]
    for layer, weight, bias in zip(network.layers[::2], weights, biases, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return network, torch.tensor([[0.65, 0.3]], dtype=torch.float64), torch.tensor([1])


def dense(widths: list[int], seed: int = 0) -> Network:
    """A random fully connected ReLU net in float64, `widths` from input to logits."""
    layers: list[dict[str, object]] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [{"type": "linear", "in": inputs, "out": outputs}, {"type": "relu"}]
    return randomised({"input_shape": [widths[0]], "layers": layers[:-1]}, seed)


def convolutional(
    seed: int = 0, side: int = 8, channels: int = 1, classes: int = 4, normalise: bool = False
) -> Network:
    """A small conv-conv-dense net in float64 whose kernels hang over the padded border."""
    first = [{"type": "normalise", "mean": [0.3] * channels, "std": [0.4] * channels}] if normalise else []
    quarter = ((side + 1) // 2 + 1) // 2
    return randomised(
        {
            "input_shape": [channels, side, side],
            "layers": [
                *first,
                {"type": "conv2d", "in": channels, "out": 3, "kernel": 3, "stride": 2, "padding": 1},
                {"type": "relu"},
                {"type": "conv2d", "in": 3, "out": 4, "kernel": 3, "stride": 2, "padding": 1},
                {"type": "relu"},
                {"type": "flatten"},
                {"type": "linear", "in": 4 * quarter * quarter, "out": 6},
                {"type": "relu"},
                {"type": "linear", "in": 6, "out": classes},
            ],
        },
        seed,
    )


def randomised(description: dict[str, object], seed: int) -> Network:
    """The described net with reproducible Gaussian weights, float64."""
    network = Network.from_description(description).double()
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        fan_in = max(weight[0].numel(), 1)
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * (1.5 / fan_in**0.5)
    return network


def _conv(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[dict[str, object]]:
    sizes = {"kernel": kernel, "stride": stride, "padding": padding}
    return [{"type": "conv2d", "in": inputs, "out": outputs, **sizes}, {"type": "relu"}]


def _head(*widths: int) -> list[dict[str, object]]:
    layers: list[dict[str, object]] = [{"type": "flatten"}]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [{"type": "linear", "in": inputs, "out": outputs}, {"type": "relu"}]
    return layers[:-1]


STACKS = {
    "one convolution, 5x5": randomised(
        {"input_shape": [2, 9, 9], "layers": [*_conv(2, 3, 5, 2, 2), *_head(3 * 25, 4)]}, 0
    ),
    "strides 1 and 2": randomised(
        {"input_shape": [1, 6, 8], "layers": [*_conv(1, 2, 3, 1, 1), *_conv(2, 3, 4, 2, 1), *_head(36, 5, 4)]}, 1
    ),
    "four convolutions, two dense": randomised(
        {
            "input_shape": [2, 12, 12],
            "layers": [
                *_conv(2, 3, 3, 1, 1),
                *_conv(3, 4, 4, 2, 1),
                *_conv(4, 3, 3, 1, 1),
                *_conv(3, 4, 4, 2, 1),
                *_head(36, 7, 6, 4),
            ],
        },
        2,
    ),
    "filters with gaps": randomised(
        {"input_shape": [1, 9, 9], "layers": [*_conv(1, 2, 2, 3, 0), *_conv(2, 3, 2, 1, 1), *_head(48, 4, 3)]}, 4
    ),
    "strides 3 and 2": randomised(
        {"input_shape": [1, 13, 10], "layers": [*_conv(1, 2, 5, 3, 2), *_conv(2, 2, 3, 2, 2), *_head(24, 3)]}, 5
    ),
    "pooling": randomised(
        {
            "input_shape": [1, 8, 8],
            "layers": [
                *_conv(1, 3, 3, 1, 1)[:1],
                {"type": "avgpool2d", "kernel": 2},
                {"type": "relu"},
                *_head(48, 6, 3),
            ],
        },
        3,
    ),
    "no hidden layer": dense([3, 3]),
}
"""Networks for the code that tells stacks of layers apart, float64."""
