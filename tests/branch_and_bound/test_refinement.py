"""Hidden bounds by branching: sound on samples, tighter than the best slopes, exact on small networks."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from robustcli.bounds.alpha import alpha
from robustcli.bounds.layered import Effort
from robustcli.branch_and_bound.refinement import refined
from robustcli.networks.network import Network
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import convolutional, dense
from tests.oracle import regions, smallest_value

BALLS = [(math.inf, 0.25), (2.0, 0.6), (1.0, 1.0)]
BOX = (0.0, 1.0)


def later() -> float:
    return time.perf_counter() + 600


def lowest_values(network: Network, found: Case) -> Tensor:
    """The true minima of all outputs over the ball."""
    x = found.ball.center.flatten().numpy()
    least = torch.full((network.classes,), math.inf, dtype=torch.float64)
    for region in regions(network, BOX):
        for unit in range(network.classes):
            args = (region.constraints, region.limits, x, float(found.ball.eps[0]), found.ball.p, BOX)
            value = smallest_value(region.slope[unit], *args) + float(region.intercept[unit])
            least[unit] = min(float(least[unit]), value)
    return least


@pytest.mark.parametrize(("p", "eps"), BALLS)
def test_samples_respect_refined_bounds(p: float, eps: float) -> None:
    for seed, network in enumerate([dense([4, 8, 7, 6, 3], 1), convolutional(3, side=6)]):
        found = case(network, center(network, seed), eps, p, BOX, wider=0.5)
        layers = refined(network, found.ball, found.layers, 64, later())
        samples = found.ball.sample(500, torch.Generator().manual_seed(seed))[0]
        for values, before, after in zip(network.pre_activations(samples), found.layers, layers, strict=False):
            assert (values.amin(0) >= after.lower[0]).all()
            assert (values.amax(0) <= after.upper[0]).all()
            assert (after.lower >= before.lower).all()
            assert (after.upper <= before.upper).all()


@pytest.mark.parametrize(("p", "eps"), [(math.inf, 0.25), (1.0, 1.0)])
def test_small_networks_are_bounded_exactly_where_signs_are_open(p: float, eps: float) -> None:
    """With more rounds than domains the ends of a unit are its true minimum and maximum, or prove its sign."""
    checked = 0
    for seed in range(3):
        network = dense([3, 5, 4, 3], seed)
        found = case(network, center(network, seed), eps, p, BOX, wider=0.2)
        layers = refined(network, found.ball, found.layers, 64, later())
        below = network.below(1)
        least = lowest_values(below, found)
        for unit in range(below.classes):
            low, up = float(layers[1].lower[0, unit]), float(layers[1].upper[0, unit])
            assert low <= float(least[unit]) + 1e-9
            if low < 0 < up:
                assert low == pytest.approx(float(least[unit]), abs=1e-2)
                checked += 1
    assert checked >= 2


def test_branching_goes_beyond_the_best_slopes() -> None:
    network = dense([6, 20, 15, 3], 4)
    found = case(network, center(network, 4), 0.3, math.inf, BOX)
    none = torch.zeros(1, 0, 3, dtype=torch.float64)
    slopes = alpha(network, found.ball, none, known=found.layers, effort=Effort(enough=None)).layers[1]
    branched = refined(network, found.ball, found.layers, 64, later())[1]
    open_ = branched.unstable
    assert open_.any()
    assert (branched.upper - branched.lower)[open_].mean() < 0.95 * (slopes.upper - slopes.lower)[open_].mean()


def test_no_time_changes_nothing() -> None:
    found = case(dense([4, 8, 7, 3], 1), center(dense([4, 3]), 1), 0.3, math.inf, BOX)
    layers = refined(found.network, found.ball, found.layers, 64, time.perf_counter() - 1)
    for before, after in zip(found.layers, layers, strict=True):
        assert torch.equal(before.lower, after.lower)
        assert torch.equal(before.upper, after.upper)
