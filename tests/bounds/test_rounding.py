"""The rounding error that is added outward really covers the rounding."""

from __future__ import annotations

import math

import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.rounding import rounding_errors
from robustcli.networks.network import Network, margin_rows
from tests.nets import convolutional, dense


def single(network: Network) -> Network:
    copy = Network.from_description(network.describe()).float()
    copy.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    return copy.eval()


def test_float32_bounds_with_their_margin_stay_below_float64_bounds() -> None:
    """In float32 rounding is visible: the widened float32 bound must not exceed the float64 one."""
    gap = 0.0
    for network in (convolutional(1), convolutional(2, normalise=True), dense([9, 20, 20, 4], 3)):
        rough = single(network).requires_grad_(False)
        exact = rough.double()
        x = torch.rand(8, *network.input_shape, generator=torch.Generator().manual_seed(1)).double()
        rows, _ = margin_rows(exact(x).argmax(1), network.classes, torch.float64)
        for p, eps in ((math.inf, 0.03), (2.0, 0.1), (1.0, 0.2)):
            ball = Ball.around(x.float().double(), eps, p, None)
            safe = dual(rough, ball.to(torch.float32), rows.float()).margins.double()
            raw = dual(rough, ball.to(torch.float32), rows.float(), outward=False).margins.double()
            true = dual(exact, ball, rows, outward=False).margins
            assert (safe <= true).all()
            gap = max(gap, (raw - true).max().item())
    assert gap > 0  # some unwidened float32 bound is too high: a float32 margin is no proof


def test_error_scales_with_precision_and_depth() -> None:
    network = dense([6, 10, 10, 3], 4)
    ball = Ball.around(torch.rand(2, 6, dtype=torch.float64), 0.1, math.inf, (0.0, 1.0))
    errors = rounding_errors(network, ball)
    assert [tuple(error.shape) for error in errors] == [(2, 10), (2, 10), (2, 3)]
    assert float(errors[-1].max()) < 1e-10
    assert float(errors[0].min()) > 0
    rough = rounding_errors(single(network), ball.to(torch.float32))
    assert float(rough[-1].max() / errors[-1].max()) > 1e8
