"""CROWN and CROWN-IBP: golden numbers, an independent dense reference, invariance, exact cases."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins, crown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.networks.network import margin_rows
from tests.bounds.cases import BALLS, Box, nets, question
from tests.bounds.references import alone, dense_crown
from tests.nets import convolutional, dense, golden_network

BOUNDS = [crown, crown_ibp]


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


def test_neither_rule_dominates() -> None:
    """Over the same hidden bounds each slope rule is the better one somewhere."""
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.1, math.inf, None)
    kw, own = dual(network, ball, rows).margins[0], alone(network, ball, rows).margins[0]
    assert own[0] > kw[0] + 0.05
    assert own[1] < kw[1] - 0.05


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
    monkeypatch.setattr("robustcli.bounds.pull.CHUNK_NUMBERS", 1)
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
