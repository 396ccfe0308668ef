"""Any rows at the hidden layers bound from below; chosen well they are CROWN, and rounding never lifts them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins
from robustcli.bounds.dual import dual
from robustcli.bounds.lagrangian import lagrangian
from robustcli.bounds.relaxation import adaptive, lines, parallel
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Network
from tests.nets import convolutional, dense
from tests.oracle import weights

NETS = {
    "dense": dense([3, 6, 5, 4], 3),
    "convolutional": convolutional(7),
    "normalised": convolutional(0, normalise=True),
}
BALLS = [(p, eps, box) for p, eps in ((math.inf, 0.1), (2.0, 0.3), (1.0, 0.5)) for box in (None, (0.0, 1.0))]


def ball(network: Network, p: float, eps: float, box: tuple[float, float] | None) -> Ball:
    x = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return Ball.around(x, eps, p, box)


def targets(network: Network) -> Tensor:
    return torch.eye(network.classes, dtype=torch.float64)[:1] - torch.eye(network.classes, dtype=torch.float64)[1:]


def random_multipliers(layers: list[Bounds], count: int, scale: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(count, *layer.lower.shape[1:]) for layer in layers]
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(NETS)), st.sampled_from(BALLS), st.floats(1e-3, 10), st.integers(0, 10**6))
def test_any_multipliers_are_sound(name: str, kind: tuple, scale: float, seed: int) -> None:
    network, around = NETS[name], ball(NETS[name], *kind)
    rows = targets(network)
    layers = dual(network, around, rows.unsqueeze(0)).layers
    found = lagrangian(rows, network.blocks, layers, around, random_multipliers(layers, len(rows), scale, seed))
    reached = network(around.sample(100, torch.Generator().manual_seed(seed))[0]) @ rows.T
    assert bool((found <= reached.amin(0)).all())


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("rule", [adaptive, parallel])
@pytest.mark.parametrize("name", NETS)
def test_the_choice_of_the_lines_is_the_backward_bound(name: str, rule, kind: tuple) -> None:
    network, around = NETS[name], ball(NETS[name], *kind)
    rows = targets(network)
    layers = dual(network, around, rows.unsqueeze(0)).layers
    here, multipliers = rows, []
    for block, bounds in zip(network.blocks[:0:-1], layers[::-1], strict=True):
        above, line = block.adjoint(here), lines(bounds, rule(bounds))
        here = above.clamp(min=0) * line.lower + above.clamp(max=0) * line.upper
        multipliers.insert(0, here)
    found = lagrangian(rows, network.blocks, layers, around, multipliers)
    expected = backward_margins(network, around, rows.unsqueeze(0), layers, rule)[0]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_never_above_its_value_in_exact_arithmetic(seed: int, magnitude: float) -> None:
    """The formula in rational numbers, term by term, with the stored weights, bounds and multipliers."""
    network = dense([3, 6, 5, 4], seed)
    for weight in network.parameters():
        weight.data *= magnitude ** (0.5 - seed % 2)
    around, rows = ball(network, math.inf, 0.25, None), targets(network)
    layers = dual(network, around, rows.unsqueeze(0)).layers
    multipliers = random_multipliers(layers, len(rows), 1.0, seed)
    found = lagrangian(rows, network.blocks, layers, around, multipliers)
    maps = [(exactly(matrix), exactly(bias)) for matrix, bias in weights(network)]
    for t in range(len(rows)):
        value, here = Fraction(0), exactly(rows[t])
        for layer in range(len(maps) - 1, -1, -1):
            matrix, bias = maps[layer]
            value += inner(here, bias)
            above = [inner(here, column) for column in zip(*matrix, strict=True)]
            if layer == 0:
                break
            lower, upper = exactly(layers[layer - 1].lower[0]), exactly(layers[layer - 1].upper[0])
            below = exactly(multipliers[layer - 1][t])
            here = []
            for a, b, l, u in zip(above, below, lower, upper, strict=True):
                if l < 0 < u:
                    value += min(Fraction(0), -b * l, (a - b) * u)
                here.append(b if l < 0 < u else a if l >= 0 else Fraction(0))
        center, eps = exactly(around.center[0]), Fraction(float(around.eps[0]))
        value += inner(above, center) - eps * sum(map(abs, above))
        assert Fraction(float(found[t])) <= value
        assert float(found[t]) >= float(value) - 1e-9 * max(1.0, abs(float(value)))


def exactly(values) -> list:
    """The numbers of a vector or matrix as fractions."""
    return [exactly(row) if row.ndim else Fraction(float(row)) for row in values]


def inner(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def test_what_is_no_number_proves_nothing() -> None:
    network = NETS["dense"]
    around, rows = ball(network, math.inf, 0.2, None), targets(network)
    layers = dual(network, around, rows.unsqueeze(0)).layers
    assert bool(layers[0].unstable.any())
    multipliers = random_multipliers(layers, len(rows), 1.0, 0)
    multipliers[0][1] = math.nan
    found = lagrangian(rows, network.blocks, layers, around, multipliers)
    assert found.isfinite().tolist() == [True, False, True]
    lost = [Bounds(layers[0].lower * math.nan, layers[0].upper), *layers[1:]]
    assert bool(lagrangian(rows, network.blocks, lost, around, multipliers).isneginf().all())
