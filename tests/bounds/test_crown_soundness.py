"""CROWN and CROWN-IBP never promise too much: samples, brute force, float32 with its rounding, overflow, NaN."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.crown import crown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.networks.network import margin_rows
from tests.bounds.cases import BALLS, BOXES, Box, nets, points, question
from tests.bounds.references import alone
from tests.bounds.test_rounding_extremes import NETWORKS, scaled, single
from tests.nets import dense
from tests.oracle import minimal_margin

BOUNDS = [crown, crown_ibp]


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
