"""Networks, points, balls and questions shared by the tests of bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.networks.network import Network, margin_rows
from tests.nets import convolutional, dense, randomised

Box = tuple[float, float] | None

BALLS = [(math.inf, 0.05), (2.0, 0.25), (1.0, 0.4)]
BOXES = [None, (0.0, 1.0)]


def nets() -> list[Network]:
    padded = {
        "input_shape": [1, 9, 9],
        "layers": [
            {"type": "conv2d", "in": 1, "out": 3, "kernel": 5, "stride": 2, "padding": 2},
            {"type": "relu"},
            {"type": "conv2d", "in": 3, "out": 4, "kernel": 3, "stride": 1, "padding": 1},
            {"type": "batchnorm"},
            {"type": "relu"},
            {"type": "avgpool2d", "kernel": 2, "stride": 1},
            {"type": "conv2d", "in": 4, "out": 3, "kernel": 4, "stride": 2, "padding": 0},
            {"type": "relu"},
            {"type": "flatten"},
            {"type": "linear", "in": 3, "out": 3},
        ],
    }
    stacked = {  # several convolutions and no ReLU between them: what hangs over the padding must not go on
        "input_shape": [1, 6, 6],
        "layers": [
            {"type": "normalise", "mean": [0.4], "std": [0.5]},
            {"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "stride": 1, "padding": 1},
            {"type": "batchnorm"},
            {"type": "conv2d", "in": 2, "out": 2, "kernel": 3, "stride": 1, "padding": 1},
            {"type": "relu"},
            {"type": "conv2d", "in": 2, "out": 2, "kernel": 5, "stride": 1, "padding": 2},
            {"type": "conv2d", "in": 2, "out": 2, "kernel": 3, "stride": 2, "padding": 1},
            {"type": "relu"},
            {"type": "flatten"},
            {"type": "linear", "in": 18, "out": 3},
        ],
    }
    return [
        dense([6, 8, 7, 3], 1),
        convolutional(2),
        convolutional(3, normalise=True, channels=2),
        randomised(padded, 4),
        randomised(stacked, 5),
    ]


def points(network: Network, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, *network.input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[0, ..., ::2] = 0.0  # on the box's face
    return x, network(x).argmax(1)


def question(network: Network, p: float, eps: float, box: Box, count: int = 3) -> tuple[Ball, Tensor]:
    x, y = points(network, count)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    return Ball.around(x, eps, p, box), rows
