"""Points of the zonotope: the KW dual is its support function, it holds every true value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.latent import Region
from robustcli.networks.network import Network, margin_rows
from robustcli.training.colt.bounding import exact
from robustcli.training.randomness import generator
from tests.nets import STACKS, convolutional, dense, golden_network

NETS = {
    "dense": dense([5, 8, 7, 6, 3], 1),
    "normalised": convolutional(3, normalise=True),
    "four convolutions": STACKS["four convolutions, two dense"],
}
BOX = (0.0, 1.0)


def around(network: Network, eps: float, count: int = 4, seed: int = 0) -> tuple[Ball, Tensor]:
    points = torch.rand(count, *network.input_shape, generator=generator(seed), dtype=torch.float64)
    points[0, ..., ::2] = 0.0  # on the face of the box
    return Ball.around(points, eps, math.inf, BOX), network(points).argmax(1)


def spread(region: Region, network: Network, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and reach of rows @ block(point) over the zonotope, both [B, T]: its values are linear in the terms."""
    errors = [torch.zeros_like(error).requires_grad_() for error in region.errors()]
    values = (rows @ network.blocks[region.depth](region.point(errors)).flatten(1).unsqueeze(2)).squeeze(2)
    reach = torch.zeros_like(values)
    for row in range(rows.shape[1]):
        gradients = torch.autograd.grad(values[:, row].sum(), errors, retain_graph=True)
        reach[:, row] = sum(gradient.abs().flatten(1).sum(1) for gradient in gradients)
    return values.detach(), reach


@pytest.mark.parametrize(
    ("eps", "terms", "margins"), [(0.1, 6, (-0.284459, 1.135379)), (0.2, 7, (-1.103451, 0.207558))]
)
def test_golden_margins_and_error_terms(eps: float, terms: int, margins: tuple[float, float]) -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, eps, math.inf, None)
    rows, _ = margin_rows(y, 3, torch.float64)
    region = Region.of(network, ball, dual(network, ball, rows).layers)
    middle, reach = spread(region, network, rows)
    assert (middle - reach)[0].tolist() == pytest.approx(margins, abs=1e-6)
    moving = [region.half, *(relaxation.gap for relaxation in region.relaxations)]
    assert sum(int((size > 0).sum()) for size in moving) == terms


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_the_zonotope_is_the_kw_dual_at_every_depth(name: str, eps: float) -> None:
    network = NETS[name]
    ball, labels = around(network, eps)
    rows, _ = margin_rows(labels, network.classes, torch.float64)
    whole = dual(network, ball, rows, outward=False)
    last, compared = len(network.blocks) - 1, 0
    middle, reach = spread(Region.of(network, ball, whole.layers), network, rows)
    assert torch.allclose(middle - reach, whole.margins, atol=1e-9)
    for depth in range(1, last):
        region = Region.of(network, ball, exact(network, ball, depth, None))
        units = torch.eye(network.blocks[depth].units, dtype=torch.float64).expand(ball.size, -1, -1)
        middle, reach = spread(region, network, units)
        bounds, open_units = whole.layers[depth], whole.layers[depth].unstable.flatten(1)
        compared += int(open_units.sum())
        assert torch.allclose((middle - reach)[open_units], bounds.lower.flatten(1)[open_units], atol=1e-9)
        assert torch.allclose((middle + reach)[open_units], bounds.upper.flatten(1)[open_units], atol=1e-9)
    assert compared > 0


@pytest.mark.parametrize("name", NETS)
def test_every_true_value_is_a_point_of_the_zonotope(name: str) -> None:
    """The error terms that make it are written down; all lie in [-1, 1]."""
    network = NETS[name]
    ball, _ = around(network, 0.1)
    samples = ball.sample(100, generator(2))
    hidden = len(network.blocks) - 1
    for depth in range(hidden):
        region = Region.of(network, ball, exact(network, ball, depth, None) if depth else [])
        for point in range(samples.shape[1]):
            values = samples[:, point]
            errors = [_ratio(values - region.middle, region.half)]
            for block, relaxation in zip(region.blocks, region.relaxations, strict=True):
                before = block(values)
                values, half = before.relu(), relaxation.gap / 2
                errors.append(_ratio(values - relaxation.slope * before - half, half))
            assert all(bool((error.abs() <= 1 + 1e-9).all()) for error in errors)
            assert torch.allclose(region.point(errors), values, atol=1e-9)


def _ratio(moved: Tensor, size: Tensor) -> Tensor:
    assert bool((moved[size == 0].abs() <= 1e-9).all())
    return torch.where(size > 0, moved / size.clamp(min=1e-300), 0.0)
