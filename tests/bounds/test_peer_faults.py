"""What other verifiers get wrong, for every bound: odd strides, normalisation before l1 and l2, padding, the box."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.crown import crown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.networks.network import Network
from tests.bounds.cases import BALLS, BOXES, Box, question
from tests.bounds.references import alone, dense_crown
from tests.nets import convolutional, dense, randomised


def test_kernels_that_do_not_divide_the_map() -> None:
    """5x5 stride 2 padding 2 and 4x4 stride 2 without padding: their adjoint needs output padding."""
    layers: list[dict[str, object]] = [
        {"type": "conv2d", "in": 2, "out": 3, "kernel": 5, "stride": 2, "padding": 2},
        {"type": "relu"},
        {"type": "conv2d", "in": 3, "out": 3, "kernel": 4, "stride": 2, "padding": 0},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 12, "out": 3},
    ]
    network = randomised({"input_shape": [2, 13, 12], "layers": layers}, 0)
    for p, eps in BALLS:
        ball, rows = question(network, p, eps, (0.0, 1.0), 1)
        found = alone(network, ball, rows, outward=False)
        torch.testing.assert_close(found.margins[0], dense_crown(network, ball, rows[0])[1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_ball_in_front_of_a_normalisation_layer_keeps_its_norm(p: float, box: Box) -> None:
    """The same function with the normalisation folded into the first weights has the same bounds."""
    rest = dense([4, 7, 6, 3], 2)
    mean, std = [0.1, 0.5, 0.3, 0.9], [0.2, 2.0, 0.5, 0.7]
    layer = {"type": "normalise", "mean": mean, "std": std}
    network = Network.from_description({"input_shape": [4], "layers": [layer, *rest.describe()["layers"]]}).double()
    folded = Network.from_description(rest.describe()).double()
    folded.load_state_dict(rest.state_dict())
    for mine, theirs in zip(network.layers[1:], rest.layers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    first = folded.layers[0]
    first.weight.data = first.weight / network.layers[0].std
    first.bias.data = first.bias - first.weight @ network.layers[0].mean
    ball, rows = question(network, p, 0.2, box)
    for bound in (interval, dual, crown, crown_ibp):
        found, expected = bound(network, ball, rows).margins, bound(folded, ball, rows).margins
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_norm_of_a_row_does_not_count_what_hangs_over_the_padding(p: float) -> None:
    """A unit in the corner sees four ninths of its 3x3 filter: its bounds are those of that part."""
    layers: list[dict[str, object]] = [
        {"type": "conv2d", "in": 1, "out": 1, "kernel": 3, "stride": 1, "padding": 1},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 16, "out": 2},
    ]
    network = randomised({"input_shape": [1, 4, 4], "layers": layers}, 0)
    weight = torch.tensor([[9.0, 9, 9], [9, 1, 2], [9, 3, 4]], dtype=torch.float64)
    network.layers[0].weight.data.copy_(weight.view(1, 1, 3, 3))
    network.layers[0].bias.data.fill_(-5.0)
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)  # the corner's value is 0: unstable at any radius
    rows = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    radius = 0.1 * {1.0: 4.0, 2.0: math.sqrt(30)}[p]
    for box in BOXES:
        for bound in (crown, dual, interval):
            corner = bound(network, Ball.around(x, 0.1, p, box), rows).layers[0]
            assert float(corner.lower[0, 0, 0, 0]) == pytest.approx(-radius, abs=1e-9)
            assert float(corner.upper[0, 0, 0, 0]) == pytest.approx(radius, abs=1e-9)


@pytest.mark.parametrize("bound", [crown, crown_ibp])
@pytest.mark.parametrize(("p", "eps"), BALLS)
def test_the_box_counts_for_every_norm(bound, p: float, eps: float) -> None:  # type: ignore[no-untyped-def]
    network = convolutional(6, normalise=True)
    boxed_ball, rows = question(network, p, eps, (0.0, 1.0))
    free_ball, _ = question(network, p, eps, None)
    boxed, free = bound(network, boxed_ball, rows), bound(network, free_ball, rows)
    unstable = boxed.layers[0].unstable
    gain = (boxed.layers[0].lower - free.layers[0].lower)[unstable]
    assert (gain >= -1e-9).all()
    assert gain.max() > 1e-3
    assert (boxed.margins >= free.margins - 1e-9).any()
