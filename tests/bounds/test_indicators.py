"""Index sets and tightness: the toy of the paper, their definitions written out, and tightness where it must be."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.indicators import IndexSets, tightness
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Network, margin_rows
from tests.nets import STACKS, convolutional, dense, golden_network
from tests.oracle import weights

BALLS = [(p, eps, box) for p, eps in ((math.inf, 0.1), (2.0, 0.4), (1.0, 0.6)) for box in (None, (0.0, 1.0))]


def toy() -> Network:
    """x_2 - |x_1|, the toy of 004."""
    network = dense([2, 4, 1])
    maps = [[[1.0, 0], [-1, 0], [0, 1], [0, -1]], [[-1.0, -1, 1, -1]]]
    for layer, matrix in zip(network.layers[::2], maps, strict=True):
        layer.weight.data = torch.tensor(matrix, dtype=torch.float64)
        layer.bias.data.zero_()
    return network


def test_golden_toy_is_tight() -> None:
    network, x = toy(), torch.tensor([[0.1, 0.42]], dtype=torch.float64)
    ball, rows = Ball.around(x, 0.2, math.inf, None), torch.ones(1, 1, 1, dtype=torch.float64)
    bounds = dual(network, ball, rows)
    assert float(bounds.margins) == pytest.approx(-0.08, abs=1e-9)
    assert float(network(torch.tensor([[0.3, 0.22]], dtype=torch.float64))) == pytest.approx(-0.08)
    found = tightness(network, ball, rows, bounds)
    assert float(found.gap) == pytest.approx(0, abs=1e-9)
    assert float(found.distance) == pytest.approx(0, abs=1e-9)


def test_golden_index_sets() -> None:
    """Net G at eps 0.1 (methods of the KW dual): l_2 = (-.43, -.64, .50), u_2 = (.28, .28, 1.42)."""
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    found = IndexSets.of(dual(network, Ball.around(x, 0.1, math.inf, None), rows).layers)
    assert found.active.tolist() == [[2, 1]]
    assert found.inactive.tolist() == [[0, 0]]
    assert found.unstable.tolist() == [[2, 2]]


def test_index_sets_split_every_layer() -> None:
    low = torch.tensor([[-1.0, 0.0, 0.0, -2.0, 1.0, math.nan, -1.0]])
    high = torch.tensor([[1.0, 2.0, 0.0, -1.0, 2.0, 1.0, 0.0]])
    found = IndexSets.of([Bounds(low, high), Bounds(-high, -low)])
    assert found.active.tolist() == [[2, 2]]
    assert found.inactive.tolist() == [[3, 3]]
    assert found.unstable.tolist() == [[2, 2]]


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("network", [dense([3, 6, 5, 3], 1), STACKS["strides 1 and 2"], convolutional(7)])
def test_follows_its_definition(network: Network, kind: tuple) -> None:
    """004, equation 10 and the display after proposition 1, one target at a time with matrices."""
    p, eps, box = kind
    x = torch.rand(2, *network.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(network(x).argmax(1), network.classes, torch.float64)
    bounds = dual(network, ball, rows)
    found = tightness(network, ball, rows, bounds)
    maps = [torch.tensor(matrix) for matrix, _ in weights(network)]
    for point in range(2):
        for t in range(rows.shape[1]):
            row, raised = rows[point, t], []
            for layer in range(len(maps) - 1, 0, -1):
                row = row @ maps[layer]
                raised.insert(0, row < 0)
                l, u = (
                    end[point].flatten() for end in (bounds.layers[layer - 1].lower, bounds.layers[layer - 1].upper)
                )
                row = row * torch.where((l < 0) & (u > 0), u / (u - l), (l >= 0).double())
            down = (row @ maps[0]).view(1, 1, *network.input_shape)
            worst = ball.take(slice(point, point + 1)).minimiser(down)[0]
            values = network.pre_activations(worst)
            gap = float(values[-1][0] @ rows[point, t] - bounds.margins[point, t])
            total, count = 0.0, 0
            for value, upper_line, layer_bounds in zip(values, raised, bounds.layers, strict=False):
                l, u = (end[point].flatten() for end in (layer_bounds.lower, layer_bounds.upper))
                for z, on, a, b in zip(value.flatten(), upper_line, l, u, strict=True):
                    if a < 0 < b:
                        total += float(min(abs(z - a), abs(z - b)) if on else abs(z))
                        count += 1
            assert float(found.gap[point, t]) == pytest.approx(gap, abs=1e-6)
            assert float(found.gap[point, t]) >= -1e-9
            assert float(found.distance[point, t]) == pytest.approx(total / max(count, 1), abs=1e-9)


def test_a_net_without_open_units_is_tight() -> None:
    network = dense([3, 6, 5, 3], 1)
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    ball = Ball.around(x, 1e-6, math.inf, None)
    rows, _ = margin_rows(network(x).argmax(1), 3, torch.float64)
    bounds = dual(network, ball, rows)
    assert int(IndexSets.of(bounds.layers).unstable.sum()) == 0
    found = tightness(network, ball, rows, bounds)
    assert found.gap.abs().max() < 1e-9
    assert torch.equal(found.distance, torch.zeros_like(found.distance))
