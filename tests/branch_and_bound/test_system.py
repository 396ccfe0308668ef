"""Domains bounded by slopes and multipliers: golden numbers, gradients, soundness for any choice of theta."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.backward import Shared, both_ends
from robustcli.bounds.interval import first_layer
from robustcli.bounds.relaxation import adaptive, lines
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound.optimiser import Ascent, Schedule, ascend
from robustcli.branch_and_bound.passes import Phases, backward, forward, proved
from robustcli.branch_and_bound.system import System
from robustcli.networks.network import margin_rows
from robustcli.networks.rows import Rows
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import convolutional, dense, golden_network

BALLS = [(math.inf, 0.2), (2.0, 0.5), (1.0, 0.8)]
LONG = Schedule(400, 0.1, 0.1, 0.99)


def lower(system: System, targets: Tensor, signs: Tensor, theta: Tensor) -> Tensor:
    """Proved bounds of some margins."""
    return proved(system, system.margins.take(targets), signs, theta)


def best(system: System, targets: Tensor, signs: Tensor, theta: Tensor, schedule: Schedule, enough: float) -> Ascent:
    return ascend(system, system.margins.take(targets), signs, theta, schedule, enough)


def slopes(system: System) -> Tensor:
    return adaptive(Bounds(system.lower, system.upper))


def golden(eps: float) -> System:
    """Net G, linf, without box, CROWN bounds of the hidden layers; margins against classes 0 and 2."""
    network, x, label = golden_network()
    ball = Ball.around(x, eps, math.inf, None)
    first = first_layer(network.blocks[0], ball)
    units = Rows.units((3,), torch.zeros(3, dtype=torch.int64), torch.arange(3), torch.float64)
    low, high = both_ends(units, network.blocks[:2], Shared([lines(first, adaptive(first))]), ball)
    rows, _ = margin_rows(label, 3, torch.float64)
    return System.of(network, ball, [first, Bounds(low[None], high[None])], rows[0])


def signed(system: System, *fixed: tuple[int, int, int]) -> Tensor:
    """One domain: (hidden layer, unit, sign) triples."""
    signs = torch.zeros(1, system.size, dtype=torch.int8)
    for layer, unit, sign in fixed:
        signs[0, (system.hidden_layers == layer) & (system.units == unit)] = sign
    return signs


@pytest.mark.parametrize(
    ("eps", "crown", "optimised"),
    [(0.1, [-0.208871, 1.030040], [-0.208871, 1.187336]), (0.2, [-0.885236, -0.106220], [-0.868267, 0.330686])],
)
def test_golden_slopes(eps: float, crown: list[float], optimised: list[float]) -> None:
    system = golden(eps)
    targets, signs = torch.tensor([0, 1]), torch.zeros(2, system.size, dtype=torch.int8)
    start = slopes(system).expand(2, -1)
    assert lower(system, targets, signs, start).tolist() == pytest.approx(crown, abs=1e-6)
    found = best(system, targets, signs, start, LONG, math.inf)
    assert lower(system, targets, signs, found.theta).tolist() == pytest.approx(optimised, abs=1e-5)


@pytest.mark.parametrize(
    ("fixed", "before", "after"),
    [
        ([(1, 0, -1)], -0.1, -0.1),
        ([(1, 0, 1)], 0.0375, 0.108190),
        ([(1, 0, -1), (0, 0, -1)], -0.04375, -0.04375),
        ([(1, 0, -1), (0, 0, -1), (0, 2, -1)], 0.1125, math.inf),
        ([(1, 0, -1), (0, 0, -1), (0, 2, 1)], 0.05, 0.05),
        ([(1, 0, -1), (0, 0, 1)], 0.2375, math.inf),
    ],
)
def test_golden_multipliers(fixed: list[tuple[int, int, int]], before: float, after: float) -> None:
    """Domains of the worked example; where the domain is empty the bound grows without limit."""
    system = golden(0.1)
    signs, target = signed(system, *fixed), torch.tensor([0])
    start = slopes(system) * (signs == 0)
    assert float(lower(system, target, signs, start)) == pytest.approx(before, abs=1e-6)
    ascent = best(system, target, signs, start, Schedule(800, 0.1, 0.1, 0.998), 5.0)
    found = float(lower(system, target, signs, ascent.theta))
    assert found > before + 0.3 if math.isinf(after) else found == pytest.approx(after, abs=5e-4)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize(("p", "eps"), BALLS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_any_theta_is_sound_on_its_domain(p: float, eps: float, box: tuple[float, float] | None, seed: int) -> None:
    """Samples of the ball, each in the domain of its own signs, against random slopes and multipliers."""
    network = convolutional(seed % 7, side=5) if seed % 2 else dense([4, 6, 5, 3], seed)
    found = case(network, center(network, seed), eps, p, box)
    system, generator = found.system, torch.Generator().manual_seed(seed)
    if system.size == 0:
        return
    samples = found.ball.sample(40, generator)[0]
    true = hidden(found, samples)
    keep = torch.rand(true.shape, generator=generator) < 0.5
    signs = torch.where(keep, -true.sign(), 0.0).to(torch.int8)
    theta = torch.rand(true.shape, generator=generator, dtype=torch.float64)
    theta = torch.where(signs == 0, theta, theta * 3)
    for target in range(len(found.targets)):
        bounds = lower(system, torch.full((len(samples),), target), signs, theta)
        assert (bounds <= network(samples) @ found.rows[target]).all()


def hidden(found: Case, points: Tensor) -> Tensor:
    """z of the system's neurons at points, [N, n]."""
    system = found.system
    values = torch.cat([z.flatten(1) for z in found.network.pre_activations(points)[:-1]], dim=1)
    offsets = torch.tensor([0, *(layer.lower.numel() for layer in found.layers)]).cumsum(0)
    return values[:, offsets[system.hidden_layers] + system.units]


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_forward_pass_is_the_gradient(p: float) -> None:
    found = case(dense([4, 7, 6, 3], 3), center(dense([4, 3]), 1), 0.4, p, (0.0, 1.0), wider=1.0)
    system = found.system
    assert system.size > 4
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0, 1, 0])
    signs = torch.randint(-1, 2, (3, system.size), generator=generator).to(torch.int8)
    phases = Phases.of(system, signs)
    theta = torch.rand(3, system.size, generator=generator, dtype=torch.float64).requires_grad_()
    found_pass = backward(system, system.margins.take(targets), phases, theta)
    x = system.minimiser(found_pass.rows.detach())
    (found_pass.value + (found_pass.rows * x).sum(1)).sum().backward()
    with torch.no_grad():
        z, _ = forward(system, phases, theta, found_pass.above, x)
        ours = phases.signs * z + phases.free * z * found_pass.above.clamp(min=0)
    assert theta.grad is not None
    assert torch.allclose(ours, theta.grad, atol=1e-12)


def test_float32_is_only_a_search() -> None:
    """The value of the search and the proof agree to float32; the proof alone is below the float64 value."""
    system = golden(0.1)
    targets, signs = torch.tensor([0, 1]), torch.zeros(2, system.size, dtype=torch.int8)
    ascent = best(system.to(torch.float32), targets, signs, slopes(system).float().expand(2, -1), LONG, math.inf)
    proof = lower(system, targets, signs, ascent.theta)
    found = backward(system, system.margins.take(targets), Phases.of(system, signs), ascent.theta.double())
    exact = found.value + system.minimum(found.rows)
    assert (proof < exact).all()
    assert (exact - proof < 1e-8).all()
    assert torch.allclose(ascent.value.double(), proof, atol=1e-4)
