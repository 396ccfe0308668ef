"""CROWN and CROWN-IBP: golden numbers, an independent dense reference, soundness by sampling, order relations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds import crown as crown_module
from robustcli.bounds.crown import backward_margins, crown, unknown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network, margin_rows
from tests.bounds.test_dual import BALLS, BOXES, nets, points
from tests.bounds.test_rounding_extremes import NETWORKS, maps, scaled, single
from tests.nets import convolutional, dense, golden_network
from tests.oracle import minimal_margin

BOUNDS = [crown, crown_ibp]
Box = tuple[float, float] | None


def question(network: Network, p: float, eps: float, box: Box, count: int = 3) -> tuple[Ball, Tensor]:
    x, y = points(network, count)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    return Ball.around(x, eps, p, box), rows


def alone(network: Network, ball: Ball, rows: Tensor, outward: bool = True) -> MarginBounds:
    """CROWN that does not start from the dual."""
    return crown(network, ball, rows, known=unknown(network, ball), outward=outward)


@pytest.mark.parametrize(
    ("eps", "lower", "upper", "margins"),
    [
        (0.1, [-0.5, -0.55], [0.275, 0.3], [-0.208871, 1.030040]),
        (0.2, [-0.8875, -0.91, -0.075], [0.665, 0.85, 1.7], [-0.885236, -0.106220]),
    ],
)
def test_golden(eps: float, lower: list[float], upper: list[float], margins: list[float]) -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, eps, math.inf, None)
    found = alone(network, ball, rows)
    assert found.layers[1].lower[0, : len(lower)].tolist() == pytest.approx(lower, abs=1e-6)
    assert found.layers[1].upper[0, : len(upper)].tolist() == pytest.approx(upper, abs=1e-6)
    assert found.margins[0].tolist() == pytest.approx(margins, abs=1e-6)
    given = dual(network, ball, rows)
    layers = [
        {0.1: (0.275, 0.225), 0.2: (0.665, 0.625)}[eps],
        {0.1: (-0.35, -0.55, 0.540625), 0.2: (-0.4375, -0.91, 0.135938)}[eps],
    ]
    best = Bounds(
        torch.tensor([layers[1]], dtype=torch.float64),
        torch.tensor([[*layers[0], {0.1: 1.325, 0.2: 1.7}[eps]]], dtype=torch.float64),
    )
    optimised = backward_margins(network, ball, rows, [given.layers[0], best], adaptive)[0].tolist()
    assert optimised == pytest.approx({0.1: [-0.1945, 1.07475], 0.2: [-0.841964, 0.074405]}[eps], abs=1e-6)


@pytest.mark.parametrize(
    ("p", "eps", "plain", "boxed"),
    [
        (1.0, 0.3, [2.098471, 0.626423], [2.338990, 0.720404]),
        (2.0, 0.2, [2.722003, 0.808458], [2.792422, 0.844831]),
    ],
)
def test_golden_boxed_balls(p: float, eps: float, plain: list[float], boxed: list[float]) -> None:
    network, _, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    x = torch.tensor([[0.05, 0.97]], dtype=torch.float64)
    for box, margins in ((None, plain), ((0.0, 1.0), boxed)):
        found = alone(network, Ball.around(x, eps, p, box), rows)
        assert found.margins[0].tolist() == pytest.approx(margins, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "eps", "plain", "boxed"),
    [
        (1.0, 0.3, [2.099129, 0.626752], [2.339049, 0.720434]),
        (2.0, 0.2, [2.722003, 0.808458], [2.792422, 0.844831]),
    ],
)
def test_golden_boxed_balls_of_the_dual(p: float, eps: float, plain: list[float], boxed: list[float]) -> None:
    network, _, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    x = torch.tensor([[0.05, 0.97]], dtype=torch.float64)
    for box, margins in ((None, plain), ((0.0, 1.0), boxed)):
        found = dual(network, Ball.around(x, eps, p, box), rows)
        assert found.margins[0].tolist() == pytest.approx(margins, abs=1e-6)


def dense_crown(network: Network, ball: Ball, rows: Tensor) -> tuple[list[Bounds], Tensor]:
    """CROWN with explicit matrices for one ball, every unit with rows of its own: an independent reference."""
    pairs = maps(network)
    layers: list[Bounds] = []

    def least(c: Tensor, upto: int) -> Tensor:
        value, row = c @ pairs[upto][1], c @ pairs[upto][0]
        for layer in range(upto - 1, -1, -1):
            l, u = layers[layer].lower, layers[layer].upper
            matrix, offset = torch.zeros_like(row), torch.zeros_like(row)
            for j in range(row.shape[1]):
                for r in range(row.shape[0]):
                    if u[j] <= 0:
                        continue
                    if l[j] >= 0:
                        matrix[r, j] = row[r, j]
                    elif row[r, j] >= 0:
                        matrix[r, j] = row[r, j] if u[j] >= -l[j] else 0.0
                    else:
                        matrix[r, j] = row[r, j] * u[j] / (u[j] - l[j])
                        offset[r, j] = -row[r, j] * u[j] * l[j] / (u[j] - l[j])
            value = value + offset.sum(1) + matrix @ pairs[layer][1]
            row = matrix @ pairs[layer][0]
        return value + ball.minimum(row.view(1, -1, *network.input_shape))[0]

    for layer in range(len(pairs) - 1):
        eye = torch.eye(len(pairs[layer][1]), dtype=torch.float64)
        layers.append(Bounds(least(eye, layer), -least(-eye, layer)))
    return layers, least(rows, len(pairs) - 1)


@pytest.mark.parametrize(("p", "eps", "box"), [(math.inf, 0.05, (0.0, 1.0)), (2.0, 0.25, None), (1.0, 0.4, (0.0, 1.0))])
@pytest.mark.parametrize("which", [0, 1, 4])
def test_equals_the_dense_reference(which: int, p: float, eps: float, box: Box) -> None:
    network = nets()[which]
    ball, rows = question(network, p, eps, box, 1)
    found = alone(network, ball, rows, outward=False)
    layers, margins = dense_crown(network, ball, rows[0])
    torch.testing.assert_close(found.margins[0], margins, atol=1e-9, rtol=0)
    for mine, theirs in zip(found.layers, layers, strict=True):
        unstable = theirs.unstable.flatten()
        assert (mine.unstable[0].flatten() == unstable).all()
        for one, other in ((mine.lower, theirs.lower), (mine.upper, theirs.upper)):
            torch.testing.assert_close(one[0].flatten()[unstable], other.flatten()[unstable], atol=1e-9, rtol=0)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_samples_inside_the_ball_respect_every_bound(which: int, p: float, eps: float, box: Box) -> None:
    network = nets()[which]
    ball, rows = question(network, p, eps, box)
    inside = ball.sample(300, torch.Generator().manual_seed(1))
    values = network.pre_activations(inside.flatten(0, 1))
    logits = values[-1].view(3, 300, -1)
    margins = (logits.unsqueeze(2) * rows.unsqueeze(1)).sum(-1).amin(1)
    for bound in (crown, crown_ibp, alone):
        found = bound(network, ball, rows)
        assert (margins >= found.margins).all()
        for value, layer in zip(values, found.layers, strict=False):
            value = value.view(3, 300, *value.shape[1:])
            assert (value.amin(1) >= layer.lower).all()
            assert (value.amax(1) <= layer.upper).all()


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_never_above_the_true_minimum(p: float, box: Box) -> None:
    """Against every linear region of a small net, also for l1 and l2 balls cut with the box."""
    for seed in range(2):
        network = dense([2, 4, 3, 3], seed)
        ball, rows = question(network, p, 0.25, box, 2)
        y = network(ball.center).argmax(1)
        for bound in (crown, crown_ibp, dual):
            found = bound(network, ball, rows).margins.amin(1)
            for i in range(2):
                exact = minimal_margin(network, ball.center[i], int(y[i]), 0.25, p, box)
                assert float(found[i]) <= exact + 1e-9


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_order_relations(which: int, p: float, eps: float, box: Box) -> None:
    """What is known is never given away; CROWN-IBP is at least interval arithmetic."""
    network = nets()[which]
    ball, rows = question(network, p, eps, box)
    loose = interval(network, ball, rows)
    assert (crown_ibp(network, ball, rows).margins >= loose.margins).all()
    kw = dual(network, ball, rows)
    for bound in (interval, dual, crown, crown_ibp):
        for told in (loose.layers, kw.layers):
            for mine, theirs in zip(bound(network, ball, rows, known=told).layers, told, strict=True):
                assert (mine.lower >= theirs.lower).all()
                assert (mine.upper <= theirs.upper).all()
    # Tighter hidden bounds never cost interval arithmetic anything (CROWN's slopes may change for the worse).
    assert (interval(network, ball, rows, known=kw.layers).margins >= loose.margins - 1e-9).all()


@pytest.mark.parametrize("which", range(5))
def test_the_dual_first_is_the_better_of_both_at_every_unit(which: int) -> None:
    network = nets()[which]
    ball, rows = question(network, math.inf, 0.05, (0.0, 1.0))
    kw, found = dual(network, ball, rows), crown(network, ball, rows)
    again = crown(network, ball, rows, known=kw.layers)
    assert torch.equal(found.margins, again.margins)
    second, single_handed = found.layers[1], alone(network, ball, rows).layers[1]
    open_units = second.unstable
    assert (second.lower >= torch.maximum(kw.layers[1].lower, single_handed.lower) - 1e-9)[open_units].all()
    assert (second.upper <= torch.minimum(kw.layers[1].upper, single_handed.upper) + 1e-9)[open_units].all()


def test_neither_rule_dominates() -> None:
    """Over the same hidden bounds each slope rule is the better one somewhere."""
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.1, math.inf, None)
    kw, own = dual(network, ball, rows).margins[0], alone(network, ball, rows).margins[0]
    assert own[0] > kw[0] + 0.05
    assert own[1] < kw[1] - 0.05


def test_units_that_are_known_to_be_stable_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convolutional(3, normalise=True, channels=2)
    ball, rows = question(network, math.inf, 0.05, (0.0, 1.0))
    asked = []

    def counting(image: Tensor, unit: Tensor, *rest):  # type: ignore[no-untyped-def]
        asked.append(len(unit))
        return ends(image, unit, *rest)

    ends = crown_module.unit_ends
    monkeypatch.setattr(crown_module, "unit_ends", counting)
    alone(network, ball, rows)
    before = sum(asked)
    kw = dual(network, ball, rows).layers
    asked.clear()
    crown(network, ball, rows, known=kw)
    assert sum(asked) <= sum(int(layer.unstable.sum()) for layer in kw[1:]) < before


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("p", "eps"), BALLS)
def test_batch_size_does_not_matter(bound, p: float, eps: float) -> None:  # type: ignore[no-untyped-def]
    network = convolutional(7)
    ball, rows = question(network, p, eps, (0.0, 1.0), 5)
    together = bound(network, ball, rows)
    for i in range(5):
        taken = bound(network, ball.take(slice(i, i + 1)), rows[i : i + 1])
        torch.testing.assert_close(taken.margins[0], together.margins[i], atol=1e-9, rtol=0)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convolutional(8)
    ball, rows = question(network, 2.0, 0.3, (0.0, 1.0))
    whole = crown(network, ball, rows).margins
    monkeypatch.setattr("robustcli.bounds.dual.CHUNK_NUMBERS", 1)
    torch.testing.assert_close(crown(network, ball, rows).margins, whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_zero_radius_gives_the_forward_pass(bound) -> None:  # type: ignore[no-untyped-def]
    network = convolutional(5)
    for p in (1.0, 2.0, math.inf):
        ball, rows = question(network, p, 0.0, (0.0, 1.0))
        exact = (rows @ network(ball.center).unsqueeze(-1)).squeeze(-1)
        found = bound(network, ball, rows).margins
        assert (found <= exact).all()
        torch.testing.assert_close(found, exact, atol=1e-7, rtol=0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_linear_network_is_exact(bound) -> None:  # type: ignore[no-untyped-def]
    network = dense([4, 3], 9)
    ball, rows = question(network, 2.0, 0.2, (0.0, 1.0))
    exact = ball.minimum(rows @ network.layers[0].weight) + rows @ network.layers[0].bias
    torch.testing.assert_close(bound(network, ball, rows).margins, exact, atol=1e-9, rtol=0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_any_norm_without_a_box(bound) -> None:  # type: ignore[no-untyped-def]
    """l3 lies between l2 and linf, as balls of one radius and as margins."""
    network = convolutional(6)
    found = []
    for p in (2.0, 3.0, 4.5, math.inf):
        ball, rows = question(network, p, 0.05, None)
        found.append(bound(network, ball, rows).layers[1])
    for tighter, looser in itertools.pairwise(found):
        assert (tighter.lower >= looser.lower - 1e-9)[tighter.unstable].all()
    dense_net = dense([6, 8, 7, 3], 1)
    ball, rows = question(dense_net, 3.0, 0.1, None, 1)
    torch.testing.assert_close(
        alone(dense_net, ball, rows).margins[0], dense_crown(dense_net, ball, rows[0])[1], atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("name", NETWORKS)
def test_widened_float32_bounds_hold(name: str, p: float, eps: float, box: Box) -> None:
    """Bounds in float32 against samples in float64, hidden layers included."""
    rough = single(NETWORKS[name]())
    exact = rough.double()
    x = torch.rand(1, *rough.input_shape, generator=torch.Generator().manual_seed(3)).double().float().double()
    rows, _ = margin_rows(exact(x).argmax(1), 3, torch.float64)
    ball = Ball(x, torch.tensor([eps]).float().double(), p, box)
    inside = ball.sample(200, torch.Generator().manual_seed(1))[0]
    values = exact.pre_activations(torch.cat([x, inside]))
    for bound in (crown, crown_ibp, alone):
        found = bound(rough, ball.to(torch.float32), rows.float())
        assert found.margins.isfinite().all()
        assert ((values[-1] @ rows[0].T).amin(0) >= found.margins[0]).all()
        for value, layer in zip(values, found.layers, strict=False):
            assert (value >= layer.lower[0]).all()
            assert (value <= layer.upper[0]).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_overflow_proves_nothing(bound) -> None:  # type: ignore[no-untyped-def]
    network = scaled(dense([3, 4, 4, 4, 4, 4, 4, 4, 4, 3], 1), [1e38] * 9)
    for p in (1.0, 2.0, math.inf):
        ball, rows = question(network, p, 0.1, (0.0, 1.0), 2)
        assert not (bound(network, ball, rows).margins > 0).any()


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("where", ["weight", "bias", "point", "radius"])
def test_nan_proves_nothing(where: str, bound) -> None:  # type: ignore[no-untyped-def]
    network = dense([3, 4, 5, 3], 1)
    x, y = points(network, 2)
    eps = torch.full((2,), 0.01, dtype=torch.float64)
    rows, _ = margin_rows(y, 3, torch.float64)
    assert (bound(network, Ball(x, eps, math.inf), rows).margins > 0).any()
    {"weight": network.layers[0].weight, "bias": network.layers[2].bias, "point": x, "radius": eps}[where].data.fill_(
        math.nan
    )
    for p in (1.0, 2.0, math.inf):
        for box in BOXES:
            assert not (bound(network, Ball(x, eps, p, box), rows).margins > 0).any()


def test_known_bounds_that_are_no_numbers_prove_nothing() -> None:
    network = dense([3, 4, 5, 3], 1)
    ball, rows = question(network, math.inf, 0.01, None, 2)
    for position in range(2):
        for bound in (interval, dual, crown, crown_ibp):
            told = [Bounds(b.lower.clone(), b.upper.clone()) for b in dual(network, ball, rows).layers]
            told[position].lower.fill_(math.nan)
            told[position].upper.fill_(math.nan)
            assert not (bound(network, ball, rows, known=told).margins > 0).any()
