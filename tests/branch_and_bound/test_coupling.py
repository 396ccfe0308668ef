"""Parabolas bounded over the box together: sound for any multipliers, closer than lines where neurons hinder others."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.branch_and_bound import hulls
from robustcli.branch_and_bound.coupling import Course, _greatest, raised
from robustcli.branch_and_bound.hulls import in_room, moved
from robustcli.branch_and_bound.optimiser import Schedule
from robustcli.branch_and_bound.parabolas import Multipliers, parabolas, terms
from robustcli.branch_and_bound.system import System
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import dense

NONE, SHORT, LONG = Course(0, 1.0), Course(40, 0.93), Course(300, 0.985)
BOXES = [None, (0.0, 1.0)]


def drawn(seed: int, box: tuple[float, float] | None, sizes: tuple[int, ...] = (6, 8, 7, 3)) -> Case:
    """A dense network, some hidden bounds wider than they need be."""
    network = dense(list(sizes), seed)
    return case(network, center(network, seed), 0.4, math.inf, box, wider=0.3)


def any_multipliers(system: System, count: int, seed: int, signs: Tensor) -> Multipliers:
    """Allowed ones, far from any optimum."""
    generator = torch.Generator().manual_seed(seed)
    begin = Multipliers.first(system, count)
    noise = {
        field.name: 2 * torch.randn(getattr(begin, field.name).shape, generator=generator) for field in fields(begin)
    }
    return replace(begin, **noise).inside(signs)


def points_of(found: Case, seed: int, count: int = 2000) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inside = found.ball.sample(count, generator)[0]
    corners = torch.where(torch.rand(inside.shape, generator=generator) < 0.5, *found.ball.bounding_box())
    return torch.cat([inside, corners])


def hidden(found: Case, points: Tensor) -> Tensor:
    """z of the system's neurons at points, [N, n]."""
    values = torch.cat([z.flatten(1) for z in found.network.pre_activations(points)[:-1]], dim=1)
    offsets = torch.tensor([0, *(layer.lower.numel() for layer in found.layers)]).cumsum(0)
    return values[:, offsets[found.system.hidden_layers] + found.system.units]


@pytest.mark.parametrize("box", BOXES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_parabolas_are_above(box: tuple[float, float] | None, seed: int) -> None:
    found = drawn(seed, box)
    if not hulls.known(found.system):
        return
    system, points = found.system, points_of(found, seed)
    unit, first = in_room(system), system.layers[0]
    signs = torch.zeros(system.size, dtype=torch.int8)
    chosen = any_multipliers(system, 1, seed, signs).to(torch.float64).inside(signs)
    curve, constants = parabolas(unit, chosen)
    whole, half = unit.forms.pixels[first], (system.up + system.down) / 2
    slopes = chosen.shares[0].unsqueeze(1) * whole - chosen.leans[0].unsqueeze(1) * chosen.tilts * whole.abs()
    t = (points[:, system.coordinates] - system.center - (system.up - system.down) / 2) / half
    z = hidden(found, points)[:, first]
    assert (z.relu() <= t @ slopes.T + constants + curve * z.square() + 1e-9).all()


@pytest.mark.parametrize("box", BOXES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), course=st.sampled_from([NONE, SHORT]), sign=st.sampled_from([-1, 0, 1]))
def test_bounds_with_any_multipliers_hold(
    box: tuple[float, float] | None, seed: int, course: Course, sign: int
) -> None:
    """Of neurons and margins, on the whole ball and where one neuron has a fixed sign, also where a margin is wrong."""
    found = drawn(seed, box)
    system = found.system
    if not hulls.known(system):
        return
    points = points_of(found, seed)
    z, values = hidden(found, points), found.network(points) @ found.rows.T
    signs = torch.zeros(system.size, dtype=torch.int8)
    signs[seed % system.size] = sign
    wanted = system.margins.joined(system.forms.both_signs())
    attained = torch.cat([values, z, -z], dim=1)
    here = (z * signs <= 0).all(1)
    begin = any_multipliers(system, len(wanted), seed, signs)
    bounds, _ = raised(system, wanted, signs, course, begin=begin)
    assert (attained[here] >= bounds).all()
    limit = system.margins.take(torch.tensor([0]))
    bounds, _ = raised(system, wanted, signs, course, limit, begin)
    assert (attained[here & (values[:, 0] <= 0)] >= bounds).all()


def hadamard(size: int) -> Tensor:
    rows = torch.ones(1, 1, dtype=torch.float64)
    while len(rows) < size:
        rows = torch.cat([torch.cat([rows, rows], dim=1), torch.cat([rows, -rows], dim=1)])
    return rows


def test_orthogonal_neurons() -> None:
    """n = d = 8 orthogonal neurons of +-1: any of them can reach d/2 at t = 0 for the hull, together n d / 2 = 32. The
    quadratic form knows that sum |z| <= sqrt(n d) |t|_2 <= d sqrt(n), so that sum relu(z) <= (d + d sqrt(n)) / 2."""
    size = 8
    network = dense([size, size, 2], 0)
    network.layers[0].weight.data = hadamard(size)
    network.layers[0].bias.data.zero_()
    network.layers[2].weight.data = torch.stack([torch.zeros(size), torch.ones(size)]).to(torch.float64)
    network.layers[2].bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = case(network, torch.zeros(1, size, dtype=torch.float64), 1.0, math.inf, None)
    system, signs = found.system, torch.zeros(size, dtype=torch.int8)
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=size)), dtype=torch.float64)
    least = float((network(corners) @ found.rows.T).min())  # the margin is concave
    bound, _ = raised(system, system.margins, signs, LONG)
    assert 1 - size * (1 + math.sqrt(size)) / 2 - 0.05 <= float(bound) <= least
    slopes = torch.full((1, size), 0.5)
    lines = torch.cat(
        [part.proved for part in hulls.raised(system, system.margins, slopes, Schedule(300, 0.1, 0, 0.98))]
    )
    assert float(lines) < 1 - 2 * size < float(bound)


def test_going_on_is_not_worse() -> None:
    """From where a search ended, with no step and with more."""
    found = drawn(7, None)
    signs = torch.zeros(found.system.size, dtype=torch.int8)
    bounds, numbers = raised(found.system, found.system.margins, signs, SHORT)
    same, _ = raised(found.system, found.system.margins, signs, NONE, begin=numbers)
    assert torch.equal(same, bounds)
    more, _ = raised(found.system, found.system.margins, signs, Course(60, 0.93), begin=numbers)
    assert (more >= bounds - 0.02 * bounds.abs()).all()


def test_batches() -> None:
    """A functional's bound does not depend on those beside it."""
    found = drawn(5, (0.0, 1.0), (12, 10, 7, 3))
    system, signs = found.system, torch.zeros(found.system.size, dtype=torch.int8)
    wanted = system.forms.both_signs()
    begin = any_multipliers(system, len(wanted), 5, signs)
    together, _ = raised(system, wanted, signs, Course(2, 0.9), begin=begin)
    for row in range(len(wanted)):
        one = torch.tensor([row])
        alone, _ = raised(system, wanted.take(one), signs, Course(2, 0.9), begin=begin.take(one))
        assert torch.allclose(alone, together[one], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("near", [True, False])
def test_greatest_eigenvalues(near: bool) -> None:
    """From above, whatever vectors are given; closely from vectors near the eigenvectors. No form at all: 0."""
    found = drawn(11, None, (9, 12, 7, 3))
    unit, count = in_room(found.system), 20
    signs = torch.zeros(unit.size, dtype=torch.int8)
    start = moved(found.system.forms.take(torch.zeros(count, dtype=torch.int64)), found.system)
    chosen = any_multipliers(unit, count, 0, signs).to(torch.float64)
    width = unit.layers[0].stop
    squares = torch.rand(count, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    squares[0] = 0
    parts = replace(terms(unit, start, signs, chosen, None), squares=squares)
    whole = unit.forms.pixels[unit.layers[0]]
    x = squares.sqrt().unsqueeze(2) * whole / parts.weights.sqrt().unsqueeze(1)
    values, vectors = torch.linalg.eigh(x @ x.mT)
    found_ = _greatest(unit, parts, vectors[:, :, -1] if near else torch.zeros(count, width, dtype=torch.float64))
    assert (found_ >= values[:, -1]).all()
    assert (found_ <= x.square().sum((1, 2)) * width).all()
    if near:
        assert (found_ <= 1.002 * values[:, -1] + 1e-12).all()
