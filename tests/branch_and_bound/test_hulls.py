"""Lines above with a slope per pixel: sound for any slopes, exact for one neuron, never worse than the triangle."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.bounds.relaxation import adaptive, lines
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound import hulls
from robustcli.branch_and_bound.optimiser import Schedule, ascend
from robustcli.branch_and_bound.passes import Phases, backward, forward, proved
from robustcli.branch_and_bound.refinement import refined
from robustcli.branch_and_bound.system import Functionals, Hulls, System
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import convolutional, dense

LONG = Schedule(300, 0.1, 0.0, 0.985)
WRONG_SIDE = Schedule(30, 0.2, 0.2, 0.9)
BOXES = [None, (0.0, 1.0)]


def drawn(seed: int, box: tuple[float, float] | None, sizes: tuple[int, ...] = (6, 8, 7, 3)) -> Case:
    """A dense network, some hidden bounds wider than they need be."""
    network = dense(list(sizes), seed)
    return case(network, center(network, seed), 0.4, math.inf, box, wider=0.3)


def slopes(system: System, count: int) -> Tensor:
    return adaptive(Bounds(system.lower, system.upper)).to(torch.float32).repeat(count, 1)


def first(found: Case, points: Tensor) -> Tensor:
    """z of the neurons in the first hidden layer that has unstable ones, [N, n1]."""
    here = found.system.layers[0]
    layer = int(found.system.hidden_layers[here.start])
    return found.network.pre_activations(points)[layer].flatten(1)[:, found.system.units[here]]


def value(system: System, start: Functionals, signs: Tensor, theta: Tensor) -> Tensor:
    """The bound itself, differentiable."""
    found = backward(system, start, Phases.of(system, signs), theta)
    return found.value + (found.rows * system.minimiser(found.rows.detach())).sum(1)


@pytest.mark.parametrize("box", BOXES)
@settings(max_examples=20, deadline=None)
@example(seed=41, scale=1.0)  # every neuron of the first layer is stable in the box
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_lines_with_any_slopes_are_above(box: tuple[float, float] | None, seed: int, scale: float) -> None:
    found, generator = drawn(seed, box), torch.Generator().manual_seed(seed)
    system = found.system
    whole = system.forms.pixels[system.layers[0]]
    pixels = whole * torch.rand(whole.shape, generator=generator, dtype=torch.float64) * scale
    pixels = pixels + (scale == 3.0) * torch.randn(whole.shape, generator=generator, dtype=torch.float64)
    above = hulls.above(system, pixels)
    samples = found.ball.sample(50, generator)[0]
    corners = torch.where(torch.rand(samples.shape, generator=generator) < 0.5, *found.ball.bounding_box())
    for points in (samples, corners):
        at = above.at(points.flatten(1)[:, system.coordinates])
        assert (first(found, points).relu() <= at).all()


def test_the_triangle_is_one_of_them() -> None:
    """G = P u / (u - l) with the exact ends l and u of the ball."""
    found = case(dense([6, 8, 3], 1), center(dense([6, 3], 0), 4), 0.4, math.inf, None)
    system = found.system
    around = lines(Bounds(system.lower, system.upper), system.lower)
    above = hulls.above(system, system.forms.pixels * around.upper.unsqueeze(1))
    assert torch.allclose(above.constants, around.upper * system.forms.constants + around.gap, atol=1e-9)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("seed", range(8))
def test_one_neuron_is_exact(box: tuple[float, float] | None, seed: int) -> None:
    """-a relu(z) + R x has its least value at a corner; for one neuron the hull misses nothing, the triangle does."""
    found = drawn(seed, box, (6, 8, 3))
    whole, generator = found.system, torch.Generator().manual_seed(seed)
    for unit in range(whole.size):
        one = torch.zeros(1, whole.size, dtype=torch.float64)
        one[0, unit] = -1.0
        across = torch.randn(1, len(whole.center), generator=generator, dtype=torch.float64)
        across = across * whole.forms.pixels[unit].abs().mean()
        zero = torch.zeros(1, dtype=torch.float64)
        start = Functionals(across, one, zero, zero, zero)
        ends = torch.stack([whole.center - whole.down, whole.center + whole.up])
        corners = torch.tensor(list(product((0, 1), repeat=len(whole.center))))
        x = ends.gather(0, corners)
        z = x @ whole.forms.pixels[unit] + whole.forms.constants[unit]
        true = float((x @ across[0] - z.relu()).min())
        (raised,) = hulls.raised(whole, start, slopes(whole, 1), LONG)
        assert true - 2e-2 <= float(raised.proved) <= true


@pytest.mark.parametrize("seed", range(6))
def test_between_triangle_and_truth(seed: int) -> None:
    found = drawn(seed, (0.0, 1.0), (10, 12, 9, 4))
    system = found.system
    count = len(found.targets)
    signs = torch.zeros(count, system.size, dtype=torch.int8)
    rough = system.to(torch.float32)
    triangle = ascend(rough, rough.margins, signs, slopes(system, count), LONG, math.inf)
    before = proved(system, system.margins, signs, triangle.theta)
    after = torch.cat([part.proved for part in hulls.raised(system, system.margins, slopes(system, count), LONG)])
    truth = (found.network(found.ball.sample(3000, torch.Generator().manual_seed(seed))[0]) @ found.rows.T).amin(0)
    assert (after <= truth).all()
    assert (after >= before - 2e-2 * before.abs()).all()
    assert float((after - before).mean()) > 0.02


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_domains_with_hulls_are_sound(seed: int) -> None:
    """Samples of the ball, each in the domain of its own signs, with slopes, multipliers and lines that fit nothing."""
    found, generator = drawn(seed, (0.0, 1.0)), torch.Generator().manual_seed(seed)
    system = found.system
    whole = system.forms.pixels[system.layers[0]]
    system = replace(system, hulls=hulls.above(system, whole * torch.rand(whole.shape, generator=generator)))
    samples = found.ball.sample(40, generator)[0]
    values = torch.cat([z.flatten(1) for z in found.network.pre_activations(samples)[:-1]], dim=1)
    offsets = torch.tensor([0, *(layer.lower.numel() for layer in found.layers)]).cumsum(0)
    true = values[:, offsets[system.hidden_layers] + system.units]
    signs = torch.where(torch.rand(true.shape, generator=generator) < 0.5, -true.sign(), 0.0).to(torch.int8)
    theta = torch.rand(true.shape, generator=generator, dtype=torch.float64) * torch.where(signs == 0, 1.0, 3.0)
    for target in range(len(found.targets)):
        start = system.margins.take(torch.full((len(samples),), target))
        assert (proved(system, start, signs, theta) <= found.network(samples) @ found.rows[target]).all()


def test_gradients_with_hulls() -> None:
    """In the slopes and multipliers by the forward pass, in the lines as the search has them."""
    found, generator = drawn(3, (0.0, 1.0)), torch.Generator().manual_seed(0)
    system = found.system
    targets = torch.tensor([0, 1, 0])
    signs = torch.randint(-1, 2, (3, system.size), generator=generator).to(torch.int8)
    whole = system.forms.pixels[system.layers[0]]
    assert len(system.layers) == 2
    pixels = (whole * torch.rand(3, *whole.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    constants = hulls.above(system, pixels.detach()).constants
    theta = torch.rand(3, system.size, generator=generator, dtype=torch.float64).requires_grad_()
    start = system.margins.take(targets)
    now = replace(system, hulls=Hulls(pixels, constants, constants))
    value(now, start, signs, theta).sum().backward()
    with torch.no_grad():
        phases = Phases.of(now, signs)
        above = backward(now, start, phases, theta)
        x = system.minimiser(above.rows)
        z, _ = forward(now, phases, theta, above.above, x)
        ours = phases.signs * z + phases.free * z * above.above.clamp(min=0)
        weights = above.above[:, : len(whole)].clamp(max=0) * phases.free[:, : len(whole)]
    assert theta.grad is not None
    assert pixels.grad is not None
    assert torch.allclose(ours, theta.grad, atol=1e-12)
    assert torch.allclose(weights.unsqueeze(2) * x.unsqueeze(1), pixels.grad, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_hidden_bounds_by_hulls(seed: int) -> None:
    network = dense([12, 40, 30, 4], seed)
    found = case(network, center(network, seed), 0.5, math.inf, (0.0, 1.0))
    tight = refined(network, found.ball, found.layers, 64, math.inf)
    points = found.ball.sample(500, torch.Generator().manual_seed(seed))[0]
    for before, after, z in zip(found.layers, tight, network.pre_activations(points)[:-1], strict=True):
        assert (after.lower >= before.lower).all()
        assert (after.upper <= before.upper).all()
        assert (after.lower <= z).all()
        assert (z <= after.upper).all()


def test_for_whom() -> None:
    """Neurons that see the whole ball, in linf; not behind small windows, not for l1 and l2."""
    network = dense([6, 8, 7, 3], 0)
    around = center(network, 0)
    assert hulls.known(case(network, around, 0.4, math.inf, None, wider=0.3).system)
    assert not hulls.known(case(network, around, 0.4, 2.0, None, wider=0.3).system)
    assert not hulls.known(case(network, around, 0.4, 1.0, None, wider=0.3).system)
    windows = convolutional(0, side=12)
    assert not hulls.known(case(windows, center(windows, 0), 0.4, math.inf, None, wider=0.3).system)


@pytest.mark.parametrize("box", BOXES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_bounds_where_a_margin_is_not_positive(box: tuple[float, float] | None, seed: int) -> None:
    """No neuron leaves them at an input with f_y - f_t <= 0."""
    found, generator = drawn(seed, box), torch.Generator().manual_seed(seed)
    system = found.system
    wanted = system.forms.both_signs()
    margin = system.margins.take(torch.tensor([seed % len(found.targets)]))
    parts = hulls.raised(system, wanted, slopes(system, len(wanted)), WRONG_SIDE, against=margin)
    ends = torch.cat([part.proved for part in parts])
    points = found.ball.sample(300, generator)[0]
    points = torch.cat(
        [points, torch.where(torch.rand(points.shape, generator=generator) < 0.5, *found.ball.bounding_box())]
    )
    wrong = points[found.network(points) @ found.rows[seed % len(found.targets)] <= 0]
    z = torch.cat([z.flatten(1) for z in found.network.pre_activations(wrong)[:-1]], dim=1)
    offsets = torch.tensor([0, *(layer.lower.numel() for layer in found.layers)]).cumsum(0)
    z = z[:, offsets[system.hidden_layers] + system.units]
    assert (torch.cat([z, -z], dim=1) >= ends).all()


def test_a_margin_that_is_not_positive_tightens() -> None:
    """Somewhere: the multiple of it is not always 0."""
    found = drawn(3, (0.0, 1.0))
    system = found.system
    wanted, theta = system.forms.both_signs(), slopes(system, 2 * system.size)
    margin = system.margins.take(torch.tensor([0]))
    alone, against = (
        torch.cat([part.proved for part in hulls.raised(system, wanted, theta, WRONG_SIDE, against=limit)])
        for limit in (None, margin)
    )
    assert (against > alone + 0.1).any()
