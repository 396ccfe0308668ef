"""The rounding error against float64 as the truth, on networks made to hurt: widened float32 bounds must hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual, parallelogram
from robustcli.bounds.interval import interval
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network, margin_rows
from tests.nets import convolutional, dense, randomised

BALLS = [(math.inf, 0.05), (2.0, 0.3), (1.0, 0.6)]


def scaled(network: Network, factors: list[float], bias: float = 1.0) -> Network:
    """Weights of the k-th parametrised layer times factors[k], biases times `bias` on top."""
    chosen = [layer for layer in network.layers if hasattr(layer, "weight")]
    for layer, factor in zip(chosen, factors, strict=True):
        layer.weight.data *= factor
        layer.bias.data *= bias
    return network


def cancelling(shift: float) -> Network:
    """A first bias that the batch normalisation takes away again: |b| of the block says nothing about its parts."""
    layers = [
        {"type": "linear", "in": 6, "out": 8},
        {"type": "batchnorm"},
        {"type": "relu"},
        {"type": "linear", "in": 8, "out": 3},
    ]
    network = randomised({"input_shape": [6], "layers": layers}, 3)
    network.layers[0].bias.data += shift
    network.layers[1].running_mean += shift
    return network


def wide_map() -> Network:
    """Few inputs and logits, many hidden units: the longest sums are over the hidden layer and over the outputs."""
    layers = [
        {"type": "conv2d", "in": 1, "out": 32, "kernel": 3, "padding": 1},
        {"type": "relu"},
        {"type": "conv2d", "in": 32, "out": 2, "kernel": 3, "stride": 3},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 8, "out": 3},
    ]
    return randomised({"input_shape": [1, 6, 6], "layers": layers}, 4)


NETWORKS: dict[str, Callable[[], Network]] = {
    "huge": lambda: scaled(dense([5, 9, 9, 3], 1), [1e4, 1e3, 1e4], 1e4),
    "small": lambda: scaled(dense([5, 9, 9, 3], 2), [1e-4, 1e-3, 1e-4], 1e-5),
    "mixed": lambda: scaled(dense([5, 9, 9, 9, 9, 9, 3], 3), [1e4, 1e-6, 1e5, 1e-3, 1e4, 1e-4]),
    "biased": lambda: scaled(dense([5, 9, 9, 9, 3], 4), [1, 1, 1, 1], 1e4),
    "deep": lambda: dense([4, 12, 12, 12, 12, 12, 12, 3], 5),
    "cancelling": lambda: cancelling(3e4),
    "wide map": wide_map,
    "normalised": lambda: convolutional(6, classes=3, normalise=True),
    "subnormal": lambda: scaled(dense([5, 9, 9, 3], 7), [1e-18, 1e-18, 1e-6], 1e-25),
}


def maps(network: Network) -> list[tuple[Tensor, Tensor]]:
    found = []
    for block in network.blocks:
        eye = torch.eye(math.prod(block.in_shape), dtype=torch.float64).view(-1, *block.in_shape)
        found.append((block.linear(eye).flatten(1).T, block.offset().flatten()))
    return found


def truth(network: Network, ball: Ball, rows: Tensor, layers: list[Bounds], upto: int) -> Tensor:
    """min of rows @ (output of block `upto`) for one point over the relaxed ReLUs of the hidden bounds *as given*."""
    pairs = maps(network)
    value, nu = rows @ pairs[upto][1], rows @ pairs[upto][0]
    for layer in range(upto - 1, -1, -1):
        relaxed = parallelogram(Bounds(layers[layer].lower.double(), layers[layer].upper.double()))
        slope, gap = relaxed.slope.flatten(), relaxed.gap.flatten()
        value = value + (nu.clamp(max=0) * gap).sum(-1)
        nu = nu * slope
        value, nu = value + nu @ pairs[layer][1], nu @ pairs[layer][0]
    return value + ball.minimum(nu.view(1, -1, *network.input_shape))[0]


def single(network: Network) -> Network:
    copy = Network.from_description(network.describe()).float()
    copy.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    return copy.eval().requires_grad_(False)


def check(rough: Network, ball: Ball, rows: Tensor, found: MarginBounds, *, kw: bool) -> None:
    """Each layer against the exact bound of its kind that rests on the layers found below it."""
    exact = rough.double()
    for position, layer in enumerate(found.layers):
        eye = torch.eye(layer.lower[0].numel(), dtype=torch.float64)
        if kw or position == 0:
            lower = truth(exact, ball, eye, found.layers, position)
            upper = -truth(exact, ball, -eye, found.layers, position)
        else:
            weight, offset = maps(exact)[position]
            before = found.layers[position - 1]
            low, high = before.lower.double().relu().flatten(), before.upper.double().relu().flatten()
            lower = weight.clamp(min=0) @ low + weight.clamp(max=0) @ high + offset
            upper = weight.clamp(min=0) @ high + weight.clamp(max=0) @ low + offset
        assert (layer.lower.double().flatten() <= lower).all()
        assert (layer.upper.double().flatten() >= upper).all()
    if kw:
        assert (found.margins.double()[0] <= truth(exact, ball, rows[0], found.layers, len(found.layers))).all()


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("name", NETWORKS)
def test_widened_float32_bounds_hold(name: str, p: float, eps: float, box: tuple[float, float] | None) -> None:
    rough = single(NETWORKS[name]())
    exact = rough.double()
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.rand(1, *rough.input_shape, generator=generator).double().round(decimals=1).float().double()
        rows, _ = margin_rows(exact(x).argmax(1), 3, torch.float64)
        ball = Ball(x, torch.tensor([eps]).double(), p, box)
        for bound in (interval, dual):
            found = bound(rough, ball.to(torch.float32), rows.float())
            assert found.margins.isfinite().all()
            check(rough, ball, rows, found, kw=bound is dual)


def test_a_norm_below_the_number_range_is_no_proof() -> None:
    """Six layers of weights near 1e-30: squares of the pulled-back rows underflow, their norms must not."""
    network = scaled(dense([3, 4, 4, 4, 4, 4, 3], 0), [1e-32] * 6, 0.0)
    for layer in network.layers[:-1:2]:
        layer.weight.data.abs_()  # with positive inputs every unit is active
    network.layers[0].bias.data.fill_(1e-30)
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    y = network(x).argmax(1)
    rows, _ = margin_rows(y, 3, torch.float64)
    for p in (2.0, 1.5):
        ball = Ball.around(x, 20.0, p, None)
        inner = Ball.around(x, 20.0, 1.0, None)  # the l1 ball lies inside every other
        lowest = (rows[0] @ network(inner.sample(400, torch.Generator().manual_seed(0))[0]).T).amin()
        for bound in (interval, dual):
            assert bound(network, ball, rows).margins.min() <= lowest


def test_the_tail_of_general_norms_is_kept() -> None:
    """q = 101 for p = 1.01: entries of 1e-4 to that power are 0 in float64."""
    ball = Ball.around(torch.zeros(1, 3, dtype=torch.float64), 1.0, 1.01, None)
    rows = torch.full((1, 1, 3), 1e-4, dtype=torch.float64)
    assert -float(ball.minimum(rows)) == pytest.approx(1e-4 * 3 ** (1 / 101), rel=1e-9)


@pytest.mark.parametrize("bound", [interval, dual])
def test_overflow_proves_nothing(bound) -> None:  # type: ignore[no-untyped-def]
    """Bounds that leave the number range become infinite or no number, never positive."""
    network = scaled(dense([3, 4, 4, 4, 4, 4, 4, 4, 4, 3], 1), [1e38] * 9)
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, _ = margin_rows(torch.tensor([0, 1]), 3, torch.float64)
    for p in (1.0, 2.0, math.inf):
        assert not (bound(network, Ball.around(x, 0.1, p, (0.0, 1.0)), rows).margins > 0).any()


@pytest.mark.parametrize("bound", [interval, dual])
@pytest.mark.parametrize("where", ["weight", "bias", "point", "radius"])
def test_nan_proves_nothing(where: str, bound) -> None:  # type: ignore[no-untyped-def]
    network = dense([3, 4, 5, 3], 1)
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eps = torch.full((2,), 0.01, dtype=torch.float64)
    rows, _ = margin_rows(network(x).argmax(1), 3, torch.float64)
    assert (bound(network, Ball(x, eps, math.inf), rows).margins > 0).any()
    broken = {"weight": network.layers[0].weight, "bias": network.layers[2].bias, "point": x, "radius": eps}[where]
    broken.data.fill_(math.nan)
    for p in (1.0, 2.0, math.inf):
        for box in (None, (0.0, 1.0)):
            assert not (bound(network, Ball(x, eps, p, box), rows).margins > 0).any()


def test_nan_bounds_settle_no_sign() -> None:
    nan = torch.full((1, 2), math.nan, dtype=torch.float64)
    bounds = Bounds(nan, nan)
    assert bounds.unstable.all()
    assert not bounds.active.any()
    assert parallelogram(bounds).slope.isnan().all()
