"""Learned slopes: the explicit zonotope, sound for any slopes, the KW dual where they are minimal, better where not."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds import zonotope as zonotope_module
from robustcli.bounds.dual import dual, parallelogram, sheared
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.bounds.zonotope import ZonotopeSettings, learned, zonotope
from robustcli.networks.network import Network, margin_rows
from tests.nets import STACKS, convolutional, dense, golden_network
from tests.oracle import weights

NETS = {
    "golden": golden_network()[0],
    "dense": dense([3, 6, 5, 4, 3], 3),
    "convolutional": convolutional(7),
    "normalised": convolutional(0, normalise=True),
    "strides": STACKS["strides 1 and 2"],
}
BALLS = [(p, eps, box) for p, eps in ((math.inf, 0.1), (2.0, 0.3), (1.0, 0.5)) for box in (None, (0.0, 1.0))]
QUICK = ZonotopeSettings(iterations=12, period=6)


def asked(
    network: Network, p: float, eps: float, box: tuple[float, float] | None, count: int = 2
) -> tuple[Ball, Tensor]:
    x = torch.rand(count, *network.input_shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows, _ = margin_rows(network(x).argmax(1), network.classes, torch.float64)
    return Ball.around(x, eps, p, box), rows


def with_slopes(network: Network, ball: Ball, rows: Tensor, slopes: list[Tensor], outward: bool = True) -> MarginBounds:
    return sheared(network, ball, rows, zonotope_module._Chosen(slopes), None, outward)


def random_slopes(network: Network, count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(count, *block.out_shape) for block in network.blocks[:-1]]
    return [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(st.floats(-1e3, -1e-6), st.floats(1e-6, 1e3), st.floats(0, 1), st.floats(0, 1))
def test_both_lines_hold_between_the_bounds(low: float, high: float, slope: float, share: float) -> None:
    bounds = Bounds(*(torch.tensor([[end]], dtype=torch.float64) for end in (low, high)))
    found = zonotope_module._Chosen([torch.tensor([[slope]], dtype=torch.float64)])(0, bounds)
    z = low + share * (high - low)
    under = float(found.slope) * z
    assert under - 1e-9 <= max(z, 0.0) <= under + float(found.gap) + 1e-9
    assert float(parallelogram(bounds).gap) <= float(found.gap) + 1e-12 * (high - low)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", BALLS)
def test_the_slopes_of_least_area_give_the_kw_dual(name: str, kind: tuple) -> None:
    network = NETS[name]
    ball, rows = asked(network, *kind)
    expected = dual(network, ball, rows)
    found = with_slopes(network, ball, rows, [parallelogram(bounds).slope for bounds in expected.layers])
    torch.testing.assert_close(found.margins, expected.margins, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("eps", "errors"), [(0.1, 6), (0.2, 7)])
def test_golden_numbers_of_error_terms(eps: float, errors: int) -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    layers = dual(network, Ball.around(x, eps, math.inf, None), rows).layers
    assert 2 + sum(int(bounds.unstable.sum()) for bounds in layers) == errors


def explicit(network: Network, ball: Ball, rows: Tensor, slopes: list[Tensor]) -> Tensor:
    """The zonotope { a + E e : ||e||_inf <= 1 } of one linf ball pushed forward, a column of E per error (002)."""
    low, high = (end[0].flatten() for end in ball.bounding_box())
    a, errors = (low + high) / 2, torch.diag((high - low) / 2)
    maps = [(torch.tensor(matrix), torch.tensor(bias)) for matrix, bias in weights(network)]
    for (matrix, bias), slope in zip(maps[:-1], slopes, strict=True):
        a, errors = matrix @ a + bias, matrix @ errors
        lower, upper = a - errors.abs().sum(1), a + errors.abs().sum(1)
        unstable = (lower < 0) & (upper > 0)
        tilt = torch.where(unstable, slope[0].flatten(), (lower >= 0).double())
        new = torch.where(unstable, torch.maximum(-tilt * lower, (1 - tilt) * upper) / 2, 0.0)
        a, errors = tilt * a + new, torch.hstack([tilt.unsqueeze(1) * errors, torch.diag(new)])
    matrix, bias = rows[0] @ maps[-1][0], rows[0] @ maps[-1][1]
    return matrix @ a + bias - (matrix @ errors).abs().sum(1)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_explicit_zonotope(name: str, seed: int, box: tuple[float, float] | None) -> None:
    network = NETS[name]
    ball, rows = asked(network, math.inf, 0.15, box, count=1)
    slopes = random_slopes(network, 1, seed)
    found = with_slopes(network, ball, rows, slopes, outward=False).margins[0]
    torch.testing.assert_close(found, explicit(network, ball, rows, slopes), rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(NETS)), st.sampled_from(BALLS), st.integers(0, 10**6))
def test_any_slopes_are_sound(name: str, kind: tuple, seed: int) -> None:
    network = NETS[name]
    ball, rows = asked(network, *kind)
    found = with_slopes(network, ball, rows, random_slopes(network, ball.size, seed))
    contains_samples(network, ball, rows, found, seed)


def contains_samples(network: Network, ball: Ball, rows: Tensor, found: MarginBounds, seed: int) -> None:
    """No sample of any ball lies outside the hidden bounds or below the margins."""
    for point, samples in enumerate(ball.sample(100, torch.Generator().manual_seed(seed))):
        *hidden, logits = network.pre_activations(samples)
        assert bool((found.margins[point] <= (logits @ rows[point].T).amin(0)).all())
        for bounds, value in zip(found.layers, hidden, strict=True):
            assert bool((bounds.lower[point] <= value).all() and (value <= bounds.upper[point]).all())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", BALLS)
def test_learned_bounds_hold_and_are_never_looser(name: str, kind: tuple) -> None:
    network = NETS[name]
    ball, rows = asked(network, kind[0], 2 * kind[1], kind[2])
    before, found = dual(network, ball, rows), zonotope(network, ball, rows, settings=QUICK)
    assert bool((found.margins >= before.margins).all())
    for old, new in zip(before.layers, found.layers, strict=True):
        assert bool((new.lower >= old.lower).all() and (new.upper <= old.upper).all())
    contains_samples(network, ball, rows, found, 0)


def test_learning_raises_the_worst_margin() -> None:
    """At eps 0.1 net G's smallest margins are 0.05 and 1.33; the KW dual says -0.2845, the triangle LP -0.1945."""
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    found = zonotope(network, Ball.around(x, 0.1, math.inf, None), rows).margins
    assert -0.24 < float(found.min()) <= 0.05


def test_known_bounds_are_a_start_and_a_limit() -> None:
    network = NETS["dense"]
    ball, rows = asked(network, math.inf, 0.3, None)
    truth = [(value.amin(1), value.amax(1)) for value in _layers_of(network, ball.sample(2000))]
    middle = [((low + high) / 2, (high - low).clamp(min=0.1)) for low, high in truth]
    known = [Bounds(m - w, m + w) for m, w in middle]  # twice the range seen: tighter than any bound, and sound
    found = zonotope(network, ball, rows, known=known, settings=QUICK)
    for given_, new in zip(known, found.layers, strict=True):
        assert bool((new.lower >= given_.lower).all() and (new.upper <= given_.upper).all())
    assert bool((found.margins >= dual(network, ball, rows, known=known).margins).all())
    contains_samples(network, ball, rows, found, 1)


def _layers_of(network: Network, samples: Tensor) -> list[Tensor]:
    """Hidden pre-activations of samples [B, S, ...], each [B, S, *shape]."""
    values = network.pre_activations(samples.flatten(0, 1))[:-1]
    return [value.view(*samples.shape[:2], *value.shape[1:]) for value in values]


def test_a_point_does_not_depend_on_the_others() -> None:
    network = NETS["convolutional"]
    ball, rows = asked(network, math.inf, 0.3, (0.0, 1.0), count=4)
    together = zonotope(network, ball, rows, settings=QUICK)
    assert bool((together.margins < 0).any(1).any())
    for point in range(4):
        index = slice(point, point + 1)
        alone = zonotope(network, ball.take(index), rows[index], settings=QUICK)
        torch.testing.assert_close(alone.margins, together.margins[index], rtol=1e-9, atol=1e-9)


def test_points_that_are_proved_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETS["convolutional"]
    ball, rows = asked(network, math.inf, 1e-3, (0.0, 1.0))
    before = dual(network, ball, rows)
    assert bool((before.margins > 0).all())
    monkeypatch.setattr(zonotope_module, "learned", lambda *_: pytest.fail("nothing to learn"))
    assert torch.equal(zonotope(network, ball, rows).margins, before.margins)


def test_slopes_stay_in_range_and_the_best_are_kept() -> None:
    network = NETS["dense"]
    ball, rows = asked(network, math.inf, 0.4, None)
    start = dual(network, ball, rows)
    wild = ZonotopeSettings(iterations=9, rate=0.9, period=100)
    slopes = learned(copy.deepcopy(network).float(), ball, rows, start.layers, wild)
    assert all(bool(((slope >= 0) & (slope <= 1)).all()) for slope in slopes)
    again = with_slopes(network, ball, rows, [slope.double() for slope in slopes]).margins.amin(1)
    assert bool((again >= start.margins.amin(1) - 1e-4).all())


@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e4])
def test_float32_bounds_moved_outward_hold(magnitude: float) -> None:
    """Against the same slopes in float64, and against slopes and bounds that differ: samples."""
    network = dense([3, 6, 5, 4, 3], 3)
    for weight in network.parameters():
        weight.data = (weight.data * magnitude).float().double()
    ball, rows = asked(network, math.inf, 0.2, None)
    ball = ball.to(torch.float32).to(torch.float64)
    slopes = [slope.float().double() for slope in random_slopes(network, ball.size, 0)]
    exact = with_slopes(network, ball, rows, slopes)
    single = copy.deepcopy(network).float()
    found = with_slopes(single, ball.to(torch.float32), rows.float(), [slope.float() for slope in slopes])
    assert bool((found.margins.double() <= exact.margins + 1e-12 * exact.margins.abs()).all())
    wide = MarginBounds(
        found.margins.double(), [Bounds(bounds.lower.double(), bounds.upper.double()) for bounds in found.layers]
    )
    contains_samples(network, ball, rows, wide, 2)


def test_without_hidden_layers_it_is_exact() -> None:
    network = STACKS["no hidden layer"]
    ball, rows = asked(network, 2.0, 0.3, (0.0, 1.0))
    assert torch.equal(zonotope(network, ball, rows).margins, dual(network, ball, rows).margins)
