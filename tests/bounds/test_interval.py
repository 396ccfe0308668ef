"""Interval bounds: golden numbers and the exact first layer."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.interval import first_layer, interval
from robustcli.networks.network import margin_rows
from tests.nets import convolutional, dense, golden_network


@pytest.mark.parametrize(("eps", "margins"), [(0.1, [-0.71875, 0.51875]), (0.2, [-1.83125, -0.715625])])
def test_golden(eps: float, margins: list[float]) -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    found = interval(network, Ball.around(x, eps, math.inf, None), rows).margins[0]
    assert found.tolist() == pytest.approx(margins, abs=1e-6)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("network", [convolutional(1, normalise=True), dense([6, 5, 3], 2)], ids=["conv", "dense"])
def test_first_layer_is_the_support_function_of_its_dense_rows(network, p, box) -> None:  # type: ignore[no-untyped-def]
    block = network.blocks[0]
    x = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ball = Ball.around(x, 0.3, p, box)
    size = math.prod(block.in_shape)
    matrix = block.linear(torch.eye(size, dtype=torch.float64).view(-1, *block.in_shape)).flatten(1).T
    rows = matrix.view(1, -1, *block.in_shape).expand(3, -1, *[-1] * len(block.in_shape))
    found = first_layer(block, ball)
    torch.testing.assert_close(
        found.lower.flatten(1), ball.minimum(rows) + block.offset().flatten(), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(
        found.upper.flatten(1), ball.maximum(rows) + block.offset().flatten(), atol=1e-10, rtol=0
    )
