"""alpha-CROWN: golden numbers, the triangle LP it converges to, soundness by sampling and against brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.alpha import Slopes, _Relaxed, alpha
from robustcli.bounds.backward import Sizes
from robustcli.bounds.crown import backward_margins, crown, unknown
from robustcli.bounds.dual import dual
from robustcli.bounds.layered import Effort, raised
from robustcli.bounds.optimiser import Ascent
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network, margin_rows
from robustcli.networks.rows import Rows
from tests.bounds.cases import BALLS, BOXES, nets, points
from tests.nets import convolutional, dense, golden_network
from tests.oracle import Box, minimal_margin, weights

QUICK = Effort(Ascent(4), Ascent(4), enough=None)
LONG = Effort(Ascent(40), Ascent(40), enough=None)


def on_fixed(network: Network, ball: Ball, rows: Tensor, layers: Sequence[Bounds], iterations: int = 300) -> Tensor:
    """alpha-CROWN margins with given hidden bounds."""
    start = MarginBounds(backward_margins(network, ball, rows, layers, adaptive), list(layers))
    effort = Effort(Ascent(iterations, 0.1), None, enough=None)
    return raised(network, ball, rows, start, lambda *_: Slopes(), effort, True).margins


def alone(network: Network, ball: Ball, rows: Tensor) -> list[Bounds]:
    """CROWN's hidden bounds, nothing else known."""
    return crown(network, ball, rows, known=unknown(network, ball)).layers


GOLDEN = [
    (0.1, [-0.208871, 1.187336], [-0.203331, 1.199608], [-0.194500, 1.212850], [-0.35, -0.55], [0.275, 0.225]),
    (0.2, [-0.868267, 0.330686], [-0.850046, 0.369342], [-0.828274, 0.410789], [-0.4375, -0.91], [0.665, 0.625]),
]


@pytest.mark.parametrize(("eps", "on_crown", "on_dual", "optimised", "low", "high"), GOLDEN)
def test_golden_margins(
    eps: float, on_crown: list[float], on_dual: list[float], optimised: list[float], low: list[float], high: list[float]
) -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, eps, math.inf, None)
    rows, _ = margin_rows(y, 3, torch.float64)
    by_crown, by_dual = alone(network, ball, rows), dual(network, ball, rows).layers
    for layers, expected in ((by_crown, on_crown), (by_dual, on_dual)):
        found = on_fixed(network, ball, rows, layers)
        assert found[0].tolist() == pytest.approx(expected, abs=5e-6)
        assert (found[0] <= torch.tensor(expected) + 1e-6).all()
    slow = Ascent(300)
    found = alpha(network, ball, rows, effort=Effort(slow, slow, enough=None))
    assert found.margins[0].tolist() == pytest.approx(optimised, abs=5e-6)
    assert found.layers[1].lower[0, :2].tolist() == pytest.approx(low, abs=5e-6)
    assert found.layers[1].upper[0, :2].tolist() == pytest.approx(high, abs=5e-6)


def test_golden_after_twenty_iterations() -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, 0.2, math.inf, None)
    rows, _ = margin_rows(y, 3, torch.float64)
    found = on_fixed(network, ball, rows, alone(network, ball, rows), iterations=20)
    assert 0.329044 <= float(found[0, 1]) <= 0.330686


def triangle(
    network: Network, x: Tensor, eps: float, p: float, box: Box, layers: Sequence[Bounds], row: Tensor
) -> float:
    """The LP relaxation with given hidden bounds, for one point (p = 1 or inf): min of row @ logits.

    Variables: how far each input moves up and down, then the output of every ReLU.
    """
    maps, center, d = weights(network), x.flatten().numpy(), x.numel()
    room = [np.full(d, eps), np.full(d, eps)]
    if box is not None:
        room = [np.minimum(eps, box[1] - center), np.minimum(eps, center - box[0])]
    total = 2 * d + sum(len(bias) for _, bias in maps[:-1])
    limits: list[tuple[float, float]] = [(0.0, float(most)) for most in np.concatenate(room)]
    matrix, bound = [], []
    if p == 1:
        matrix.append(np.concatenate([np.ones(2 * d), np.zeros(total - 2 * d)]))
        bound.append(eps)
    slope, shift = np.hstack([np.eye(d), -np.eye(d), np.zeros((d, total - 2 * d))]), center
    start = 2 * d
    for (weight, bias), layer in zip(maps, layers, strict=False):
        slope, shift = weight @ slope, weight @ shift + bias
        low, high = layer.lower.flatten().numpy(), layer.upper.flatten().numpy()
        after = np.zeros((len(bias), total))
        for unit in range(len(bias)):
            after[unit, start + unit] = 1.0
            if low[unit] >= 0 or high[unit] <= 0:  # y = z or y = 0
                on = float(low[unit] >= 0)
                limits.append((-math.inf, math.inf))
                for sign in (1.0, -1.0):
                    matrix.append(sign * (after[unit] - on * slope[unit]))
                    bound.append(sign * on * shift[unit])
                continue
            limits.append((0.0, math.inf))
            matrix += [slope[unit] - after[unit]]
            bound += [-shift[unit]]
            rise = high[unit] / (high[unit] - low[unit])
            matrix.append(after[unit] - rise * slope[unit])
            bound.append(rise * (shift[unit] - low[unit]))
        slope, shift, start = after, np.zeros(len(bias)), start + len(bias)
    weight, bias = maps[-1]
    cost = row.numpy() @ weight @ slope
    answer = linprog(cost, A_ub=np.array(matrix), b_ub=np.array(bound), bounds=limits)
    assert answer.status == 0
    return float(answer.fun + row.numpy() @ (weight @ shift + bias))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), [(math.inf, 0.1), (1.0, 0.3)])
@pytest.mark.parametrize("seed", range(3))
def test_reaches_the_triangle_relaxation(seed: int, p: float, eps: float, box: Box) -> None:
    network = dense([4, 7, 6, 3], seed)
    x, y = points(network, 2, seed)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, 3, torch.float64)
    start = crown(network, ball, rows)
    found = on_fixed(network, ball, rows, start.layers)
    assert (found >= start.margins).all()
    for point in range(2):
        layers = [layer.take(slice(point, point + 1)) for layer in start.layers]
        for row, value in zip(rows[point], found[point], strict=True):
            best = triangle(network, x[point], eps, p, box, layers, row)
            assert best - 1e-3 <= float(value) <= best + 1e-7


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), [(math.inf, 0.15), (2.0, 0.25), (1.0, 0.4)])
def test_stays_below_the_exact_minimum(p: float, eps: float, box: Box) -> None:
    network = dense([2, 6, 5, 3], 11)
    x, y = points(network, 4, 3)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, 3, torch.float64)
    found, start = alpha(network, ball, rows, effort=LONG), crown(network, ball, rows)
    assert (found.margins >= start.margins).all()
    assert (found.margins - start.margins).max() > 1e-3  # something is gained
    for point in range(4):
        exact = minimal_margin(network, x[point], int(y[point]), eps, p, box)
        assert float(found.margins[point].min()) <= exact + 1e-9


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_samples_inside_the_ball_respect_every_bound(
    which: int, p: float, eps: float, box: tuple[float, float] | None
) -> None:
    network = nets()[which]
    x, y = points(network, 2)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    inside = ball.sample(300, torch.Generator().manual_seed(1))
    values = network.pre_activations(inside.flatten(0, 1))
    margins = (values[-1].view(2, 300, 1, -1) * rows.unsqueeze(1)).sum(-1).amin(1)
    start = crown(network, ball, rows)
    found = alpha(network, ball, rows, known=start.layers, effort=QUICK)
    assert (found.margins >= start.margins).all()
    assert (margins >= found.margins).all()
    for value, layer, known in zip(values, found.layers, start.layers, strict=False):
        value = value.view(2, 300, *value.shape[1:])
        assert (value.amin(1) >= layer.lower).all()
        assert (value.amax(1) <= layer.upper).all()
        assert (layer.lower >= known.lower).all()
        assert (layer.upper <= known.upper).all()


def test_any_slopes_are_sound() -> None:
    """The final evaluation trusts no slope it is given."""
    network = dense([3, 8, 3], 4)
    x, y = points(network, 1)
    ball = Ball.around(x, 0.3, math.inf, None)
    rows, _ = margin_rows(y, 3, torch.float64)
    layers = crown(network, ball, rows).layers
    whole = Rows.whole(rows)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        slopes = torch.rand(2, 8, generator=generator) * layers[0].unstable
        sizes = Sizes.of(network.blocks, ball, layers)
        found = Slopes().lowest([slopes], whole, network.blocks, layers, ball, sizes)
        margins = (rows @ network(ball.sample(500, generator)[0]).T).amin(2)[0]
        assert (found <= margins).all()


def test_a_point_does_not_depend_on_the_others() -> None:
    network = convolutional(7)
    x, y = points(network, 4)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    together = alpha(network, Ball.around(x, 0.1, math.inf, (0.0, 1.0)), rows, effort=QUICK)
    for i in range(4):
        ball = Ball.around(x[i : i + 1], 0.1, math.inf, (0.0, 1.0))
        alone = alpha(network, ball, rows[i : i + 1], effort=QUICK)
        torch.testing.assert_close(alone.margins[0], together.margins[i], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("seed", "eps"), [(3, 0.1), (7, 0.3)])
def test_what_is_proved_is_left_alone(seed: int, eps: float) -> None:
    network = convolutional(seed)
    x, y = points(network, 4)
    ball = Ball.around(x, eps, math.inf, (0.0, 1.0))
    rows, _ = margin_rows(y, network.classes, torch.float64)
    start, found = crown(network, ball, rows), alpha(network, ball, rows)
    proved = start.margins > 0
    assert proved.any()
    assert proved.all() == (seed == 3)
    assert torch.equal(found.margins[proved], start.margins[proved])
    assert (found.margins[~proved] > start.margins[~proved]).all()
    for before, after in zip(start.layers, found.layers, strict=True):
        assert torch.equal(before.lower, after.lower) == (seed == 3 or before is start.layers[0])


def test_known_bounds_are_used() -> None:
    """Bounds at a smaller radius make the margins at the larger one tighter: they do enter."""
    network = dense([4, 9, 8, 3], 6)
    x, y = points(network, 3)
    rows, _ = margin_rows(y, 3, torch.float64)
    wide = Ball.around(x, 0.2, math.inf, None)
    smaller = crown(network, Ball.around(x, 0.1, math.inf, None), rows).layers
    assert (alpha(network, wide, rows, known=smaller, effort=QUICK).margins > alpha(network, wide, rows).margins).any()


def test_hidden_bounds_without_any_row() -> None:
    network = dense([4, 9, 8, 3], 6)
    x, y = points(network, 2)
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.2, math.inf, None)
    found = alpha(network, ball, rows[:, :0], effort=QUICK)
    assert found.margins.shape == (2, 0)
    asked = alpha(network, ball, rows, effort=QUICK)
    assert torch.equal(found.layers[1].lower, asked.layers[1].lower)
    assert alpha(network, ball.take(slice(0, 0)), rows[:0]).margins.shape == (0, 2)


def test_numbers_out_of_range_prove_nothing() -> None:
    network = dense([3, 6, 5, 3], 2)
    for block in network.blocks:
        for layer in block.layers:
            layer.weight.data *= 1e120
    x, y = points(network, 2)
    rows, _ = margin_rows(y, 3, torch.float64)
    found = alpha(network, Ball.around(x, 0.5, math.inf, None), rows)
    assert not (found.margins > 0).any()


def test_linear_network_is_exact() -> None:
    network = dense([4, 3], 9)
    x, y = points(network, 2)
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.2, 2.0, (0.0, 1.0))
    exact = ball.minimum(rows @ network.layers[0].weight) + rows @ network.layers[0].bias
    torch.testing.assert_close(alpha(network, ball, rows).margins, exact, atol=1e-9, rtol=0)


def test_gradients_of_a_relaxed_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (3, 5), (1, 5), (1, 5), (1, 5)]
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for number in inputs[:2]:
        number.requires_grad_(True)
    assert torch.autograd.gradcheck(_Relaxed.apply, inputs)


def test_start_is_crown() -> None:
    network = convolutional(5)
    x, y = points(network, 2)
    ball = Ball.around(x, 0.1, 2.0, (0.0, 1.0))
    rows, _ = margin_rows(y, network.classes, torch.float64)
    start = crown(network, ball, rows)
    whole = Rows.whole(rows)
    free = Slopes().free(start.layers)
    pulled = whole.through(network.blocks[-1])
    with torch.enable_grad():
        for layer in (2, 1, 0):
            pulled, _ = free.relax(layer, pulled)
            pulled = pulled.through(network.blocks[layer])
    numbers = [number.detach() for number in free.numbers()]
    found = Slopes().lowest(numbers, whole, network.blocks, start.layers, ball, None)
    exact = backward_margins(network, ball, rows, start.layers, adaptive, outward=False)
    torch.testing.assert_close(found.view_as(exact), exact, atol=1e-12, rtol=0)
