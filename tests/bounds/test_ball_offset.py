"""SDP-CROWN's offset with the box of the units: golden numbers, any multiplier is sound, sampling, spectral norms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.alpha import alpha
from robustcli.bounds.backward import Sizes, lowest
from robustcli.bounds.ball_offset import PerRow, _Offset, ball_offset, offsets, rounding
from robustcli.bounds.crown import backward_margins, crown
from robustcli.bounds.layered import Effort
from robustcli.bounds.optimiser import Ascent
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.spectral import Around, block_norm, layer_norm, matrix_norm, spectral_norms
from robustcli.errors import UsageError
from robustcli.networks.layers import AvgPool2d, Conv2d, Linear
from robustcli.networks.network import Block, Network, margin_rows
from robustcli.networks.rows import Rows
from tests.bounds.cases import BOXES, nets, points
from tests.nets import dense, golden_network
from tests.oracle import minimal_margin

QUICK = Effort(Ascent(4), Ascent(4), enough=None)
LONG = Effort(Ascent(150, 0.1), Ascent(150, 0.1), enough=None)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


A, G, CENTER = row(1, -2, 0.5), row(0.5, -1, 0.2), row(0.1, -0.2, 0.3)
RADIUS = torch.tensor([0.5], dtype=torch.float64)


def at(multiplier: float, half_width: float) -> float:
    """h of the example, z within `half_width` of the centre."""
    low, high = CENTER - half_width, CENTER + half_width
    return float(offsets(A, G, torch.tensor([multiplier], dtype=torch.float64), low, high, CENTER, RADIUS)[0])


def orthogonal_network() -> tuple[Network, Tensor, Tensor]:
    """Net H, all of whose layers keep lengths (where balls help most), its point and its label."""
    network = dense([4, 4, 4, 2])
    hadamard = row(1, 1, 1, 1, 1, -1, 1, -1, 1, 1, -1, -1, 1, -1, -1, 1).view(4, 4)
    weights = [hadamard / 2, hadamard[:, [1, 2, 3, 0]] / 2, row(0.5, 0.5, -0.5, 0.5, -0.5, 0.5, 0.5, -0.5).view(2, 4)]
    biases = [row(0, 0, 0, 0), row(-0.1, 0.1, 0, 0.05), row(0.45, 0)]
    for layer, weight, bias in zip(network.layers[::2], weights, biases, strict=True):
        layer.weight.data, layer.bias.data = weight.clone(), bias[0].clone()
    return network, row(0.2, 0.1, 0.3, 0.1), torch.tensor([0])


def test_golden_offsets() -> None:
    assert at(2.131119, math.inf) == pytest.approx(-0.621468, abs=1e-6)
    assert at(1.0, math.inf) == pytest.approx(-0.775, abs=1e-12)
    assert at(0.0, 0.4) == pytest.approx(-0.6, abs=1e-12)
    assert at(1.060660, 0.4) == pytest.approx(-0.594853, abs=1e-6)
    assert at(1.0, 0.4) == pytest.approx(-0.595, abs=1e-12)
    assert max(at(value / 1000, 0.4) for value in range(3000)) <= -0.594853 + 1e-6


def test_around_zero_the_best_multiplier_is_known() -> None:
    """h = -rho || min(A - G, G, 0) ||_2, the example of the paper's figure 1."""
    rows, tilted, zero = row(-1, -1), row(-0.5, -0.5), row(0, 0)
    lost = torch.minimum(torch.minimum(rows - tilted, tilted), zero).norm()
    wide = torch.full_like(rows, math.inf)
    found, _ = offsets(rows, tilted, lost.view(1), -wide, wide, zero, torch.ones(1, dtype=torch.float64))
    assert float(found) == pytest.approx(-0.707107, abs=1e-6)


NUMBER = st.floats(-3, 3, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=5), st.floats(0, 20), st.integers(0, 10**6))
def test_any_multiplier_and_rows_are_sound(
    units: list[tuple[float, float, float]], multiplier: float, seed: int
) -> None:
    rows, tilted, center = (row(*values) for values in zip(*units, strict=True))
    generator = torch.Generator().manual_seed(seed)
    low, high = (
        -torch.rand(rows.shape, generator=generator).double(),
        torch.rand(rows.shape, generator=generator).double(),
    )
    z = low + (high - low) * torch.rand(200, rows.shape[1], generator=generator, dtype=torch.float64)
    z = z[torch.linalg.vector_norm(z - center, dim=1) <= 2.0]
    radius, weight = torch.full((1,), 2.0, dtype=torch.float64), torch.tensor([multiplier], dtype=torch.float64)
    found, _ = offsets(rows, tilted, weight, low, high, center, radius)
    error = rounding(rows, tilted, weight, low, high, center, radius)
    assert 0 < float(error) < 1e-11
    exact = ((rows * z.relu()).sum(1) - (tilted * z).sum(1)).tolist()
    assert all(float(found - error) <= value for value in exact)


def test_without_multiplier_these_are_the_lines_of_crown() -> None:
    network = dense([4, 7, 6, 3], 2)
    x, y = points(network, 3)
    ball = Ball.around(x, 0.3, 2.0, (0.0, 1.0))
    rows, _ = margin_rows(y, 3, torch.float64)
    layers = crown(network, ball, rows).layers
    whole = Rows.whole(rows)
    pulled, slopes = whole.through(network.blocks[-1]), {}
    for layer in (1, 0):
        bounds = layers[layer]
        rise = bounds.upper / (bounds.upper - bounds.lower)
        chosen = torch.where(pulled.values >= 0, pulled.gather(adaptive(bounds)), pulled.gather(rise))
        slopes[layer] = chosen * pulled.gather(bounds.unstable.double())
        whole_slope = slopes[layer] + pulled.gather(bounds.active.double())
        pulled = Rows(pulled.image, pulled.values * whole_slope, pulled.shape).through(network.blocks[layer])
    nothing = [torch.zeros(len(whole), dtype=torch.float64)] * 2
    found = PerRow(layers, Around.of(network, ball), [slopes[0], slopes[1]], nothing, outward=False)
    bound = lowest(whole, network.blocks, found, ball) + torch.stack(found.offsets).sum(0)
    expected = backward_margins(network, ball, rows, layers, adaptive, outward=False)
    torch.testing.assert_close(bound.view_as(expected), expected, atol=1e-9, rtol=0)


def test_golden_margins_of_an_orthogonal_network() -> None:
    network, x, y = orthogonal_network()
    rows, _ = margin_rows(y, 2, torch.float64)
    ball = Ball.around(x, 0.4, 2.0, None)
    assert spectral_norms(network)[:2] == pytest.approx([1, 1], abs=1e-9)
    found = ball_offset(network, ball, rows, effort=LONG)
    assert found.margins.item() == pytest.approx(0.24088, abs=2e-3)
    assert found.margins.item() > alpha(network, ball, rows, effort=LONG).margins.item() + 0.02
    low, high = [-0.1, -0.3122, -0.22141, -0.48284], [0.5, 0.32141, 0.4122, 0.14613]
    assert found.layers[1].lower[0].tolist() == pytest.approx(low, abs=2e-3)
    assert found.layers[1].upper[0].tolist() == pytest.approx(high, abs=2e-3)
    assert found.margins.item() <= minimal_margin(network, x, 0, 0.4, 2.0, None)


def test_golden_margins_where_balls_do_not_help() -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.12, 2.0, None)
    norms = spectral_norms(network)
    assert norms[:2] == pytest.approx([2.783882, 2.288121], abs=1e-6)
    radii = [float(radius) for radius in Around.of(network, ball).radii]
    assert radii == pytest.approx([0.334066, 0.764383], abs=1e-6)
    found = ball_offset(network, ball, rows, effort=LONG)
    assert found.margins[0].tolist() == pytest.approx([-0.1308, 1.1419], abs=2e-3)
    assert (found.margins[0] <= torch.tensor([-0.03125, 1.22449])).all()


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("eps", [0.1, 0.6])
@pytest.mark.parametrize("which", range(5))
def test_samples_inside_the_ball_respect_every_bound(which: int, eps: float, box: tuple[float, float] | None) -> None:
    network = nets()[which]
    x, y = points(network, 2)
    ball = Ball.around(x, eps, 2.0, box)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    inside = ball.sample(300, torch.Generator().manual_seed(1))
    values = network.pre_activations(inside.flatten(0, 1))
    margins = (values[-1].view(2, 300, 1, -1) * rows.unsqueeze(1)).sum(-1).amin(1)
    start = crown(network, ball, rows)
    found = ball_offset(network, ball, rows, known=start.layers, effort=QUICK)
    assert (found.margins >= start.margins).all()
    assert (margins >= found.margins).all()
    around = Around.of(network, ball)
    for layer, (value, bounds) in enumerate(zip(values, found.layers, strict=False)):
        value = value.view(2, 300, *value.shape[1:])
        assert (value.amin(1) >= bounds.lower).all()
        assert (value.amax(1) <= bounds.upper).all()
        moved = (value - around.centers[layer].unsqueeze(1)).flatten(2).norm(dim=2)
        assert (moved <= around.radii[layer].unsqueeze(1)).all()


@pytest.mark.parametrize("box", BOXES)
def test_stays_below_the_exact_minimum(box: tuple[float, float] | None) -> None:
    network = dense([2, 6, 5, 3], 11)
    x, y = points(network, 3, 3)
    rows, _ = margin_rows(y, 3, torch.float64)
    found = ball_offset(network, Ball.around(x, 0.25, 2.0, box), rows, effort=Effort(enough=None))
    for point in range(3):
        exact = minimal_margin(network, x[point], int(y[point]), 0.25, 2.0, box)
        assert float(found.margins[point].min()) <= exact + 1e-9


def test_a_point_does_not_depend_on_the_others() -> None:
    network = nets()[1]
    x, y = points(network, 3)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    together = ball_offset(network, Ball.around(x, 0.3, 2.0, (0.0, 1.0)), rows, effort=QUICK).margins
    for i in range(3):
        one = Ball.around(x[i : i + 1], 0.3, 2.0, (0.0, 1.0))
        alone = ball_offset(network, one, rows[i : i + 1], effort=QUICK).margins
        torch.testing.assert_close(alone[0], together[i], atol=1e-9, rtol=0)


def test_other_balls_are_refused() -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    with pytest.raises(UsageError, match="l2"):
        ball_offset(network, Ball.around(x, 0.1, math.inf, None), rows)


def test_numbers_out_of_range_prove_nothing() -> None:
    network = dense([3, 6, 5, 3], 2)
    for layer in network.layers[::2]:
        layer.weight.data *= 1e120
    x, y = points(network, 2)
    rows, _ = margin_rows(y, 3, torch.float64)
    for eps in (0.0, 0.5):
        found = ball_offset(network, Ball.around(x, eps, 2.0, None), rows)
        assert not (found.margins > 0).any()


def test_gradients_of_an_offset_layer() -> None:
    generator = torch.Generator().manual_seed(3)
    rows, slopes = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    share, unit, radius = (torch.rand(3, generator=generator, dtype=torch.float64) + 0.5 for _ in range(3))
    low, high = -torch.rand(1, 5, generator=generator).double(), torch.rand(1, 5, generator=generator).double()
    center = low + (high - low) * torch.rand(1, 5, generator=generator).double()
    for number in (rows, slopes, share):
        number.requires_grad_(True)
    inputs = (rows, slopes.detach().sigmoid().requires_grad_(True), share, unit, row(0, 0, 0, 0, 0), low, high, center)
    assert torch.autograd.gradcheck(_Offset.apply, (*inputs, radius))


@pytest.mark.parametrize("which", range(5))
def test_spectral_norms_bound_every_direction(which: int) -> None:
    network = nets()[which]
    for block, bound in zip(network.blocks, spectral_norms(network), strict=True):
        basis = torch.eye(math.prod(block.in_shape), dtype=torch.float64).view(-1, *block.in_shape)
        true = float(torch.linalg.matrix_norm(block.linear(basis).flatten(1), 2))
        assert true <= bound
        if block.mixing == 1:
            assert bound == pytest.approx(true, rel=1e-6)


def test_norms_of_layers_too_large_for_their_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Conv2d((2, 8, 8), 3, 4, 2, 1), Conv2d((2, 7, 7), 3, 3, 1, 1), AvgPool2d((2, 6, 6), 3, 2), Linear(30, 20)]
    for layer in (each.double().requires_grad_(False) for each in layers):
        basis = torch.eye(math.prod(layer.in_shape), dtype=torch.float64).view(-1, *layer.in_shape)
        true = float(torch.linalg.matrix_norm(layer.linear(basis).flatten(1), 2))
        monkeypatch.setattr("robustcli.bounds.spectral.LARGEST_GRAM", 1)
        assert true <= layer_norm(layer) <= 6 * true
        assert true <= block_norm(Block([layer]))
        monkeypatch.undo()


def test_norm_is_an_upper_bound_for_ill_conditioned_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-200, 1e-8, 1.0, 1e200):
        u, v = (torch.randn(30, 1, generator=generator, dtype=torch.float64) for _ in range(2))
        exact = float(u.norm() * v.norm())
        assert exact * scale <= matrix_norm(u @ v.T * scale, 1)


def test_final_evaluation_is_safe_against_rounding() -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.12, 2.0, None)
    layers = crown(network, ball, rows).layers
    whole = Rows.whole(rows)
    slopes = [torch.rand(2, *layer.lower.shape[1:]) * layer.unstable for layer in layers]
    multipliers = [torch.full((2,), 0.7)] * 2
    values = []
    for outward in (False, True):
        found = PerRow(layers, Around.of(network, ball), slopes, multipliers, outward)
        sizes = Sizes.of(network.blocks, ball, layers) if outward else None
        values.append(lowest(whole, network.blocks, found, ball, sizes) + torch.stack(found.offsets).sum(0))
    assert (values[1] < values[0]).all()
    assert (values[0] - values[1] < 1e-10).all()
