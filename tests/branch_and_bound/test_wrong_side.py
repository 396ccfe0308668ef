"""Bounds where a margin is not positive: every counterexample is inside them, and where none is left there is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.branch_and_bound import verify as module
from robustcli.branch_and_bound import wrong_side
from robustcli.branch_and_bound.coupling import raised
from robustcli.branch_and_bound.hulls import known
from robustcli.branch_and_bound.system import System
from robustcli.branch_and_bound.wrong_side import FIRST, tightened
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import dense

CLOSE = [(4, 0.2), (6, 0.2), (3, 0.4), (9, 0.4)]
"""Seeds and radii of points that the hulls alone do not decide."""


def drawn(seed: int, eps: float) -> Case:
    network = dense([8, 20, 16, 3], seed)
    return case(network, center(network, seed), eps, math.inf, (0.0, 1.0), wider=0.2)


def corners_and_samples(found: Case, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inside = found.ball.sample(4000, generator)[0]
    corners = torch.where(torch.rand(inside.shape, generator=generator) < 0.5, *found.ball.bounding_box())
    return torch.cat([inside, corners])


def hidden(found: Case, system: System, points: Tensor) -> Tensor:
    """z of the system's neurons at points, [N, n]."""
    values = torch.cat([z.flatten(1) for z in found.network.pre_activations(points)[:-1]], dim=1)
    offsets = torch.tensor([0, *(layer.lower.numel() for layer in found.layers)]).cumsum(0)
    return values[:, offsets[system.hidden_layers] + system.units]


@pytest.mark.parametrize(("seed", "eps"), [*CLOSE, *((seed, 0.6) for seed in range(4))])
def test_every_counterexample_is_inside(seed: int, eps: float) -> None:
    """In the whole ball, and in the halves of it where one neuron has a fixed sign."""
    found = drawn(seed, eps)
    system, points = found.system, corners_and_samples(found, seed)
    assert known(system)
    z, values = hidden(found, system, points), found.network(points) @ found.rows.T
    for target in range(len(found.targets)):
        for sign in (0, 1 if seed % 2 else -1):
            signs = torch.zeros(system.size, dtype=torch.int8)
            signs[seed % system.size] = sign
            wrong = (values[:, target] <= 0) & ((z * signs) <= 0).all(1)
            result = tightened(system, system.margins.take(torch.tensor([target])), signs)
            if result is None:
                assert not wrong.any()
                continue
            tight, fixed = result
            assert (tight.lower >= system.lower).all()
            assert (tight.upper <= system.upper).all()
            free = signs == 0
            assert (z[wrong][:, free] >= tight.lower[free]).all()
            assert (z[wrong][:, free] <= tight.upper[free]).all()
            assert ((z[wrong] * fixed) <= 0).all()
            assert (fixed[signs != 0] == signs[signs != 0]).all()


@pytest.mark.parametrize(("seed", "eps"), [(3, 0.5), (6, 0.3), (9, 0.5), (11, 0.3)])
def test_little_is_left(seed: int, eps: float) -> None:
    """Where few inputs are misclassified, the neurons of the wrong side are held at much less than over the ball."""
    found = drawn(seed, eps)
    system, signs = found.system, torch.zeros(found.system.size, dtype=torch.int8)
    target = int((found.network(corners_and_samples(found, seed)) @ found.rows.T).amin(0).argmin())
    ends, _ = raised(system, system.forms.both_signs(), signs, FIRST)
    low, up = ends.tensor_split(2)
    whole = torch.minimum(-up, system.upper) - torch.maximum(low, system.lower)
    result = tightened(system, system.margins.take(torch.tensor([target])), signs)
    assert result is not None
    assert (result[0].upper - result[0].lower).sum() < 0.7 * whole.sum()


def test_nothing_is_left() -> None:
    """A ball that the hulls alone decide has no wrong side."""
    gone = 0
    for seed in range(12):
        found = drawn(seed, 0.15)
        for target, margin in enumerate(found.margins):
            signs = torch.zeros(found.system.size, dtype=torch.int8)
            if found.system.size and margin > -0.5:
                gone += tightened(found.system, found.system.margins.take(torch.tensor([target])), signs) is None
    assert gone > 0


@pytest.mark.parametrize(("seed", "eps"), [*CLOSE, (4, 0.6), (5, 0.6)])
def test_parts_of_parts(monkeypatch: pytest.MonkeyPatch, seed: int, eps: float) -> None:
    """Searches of no domain but the first, so that the ball is divided again and again; against one undivided."""
    found = drawn(seed, eps)
    plain = found.verify()
    divided = []

    def counted(*arguments: object) -> object:
        divided.append(1)
        return tightened(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "SHORT", 0)
    monkeypatch.setattr(module, "PART", 0)
    monkeypatch.setattr(module, "tightened", counted)
    monkeypatch.setattr(module, "refined", lambda network, ball, layers, *_: list(layers))
    outcome = found.verify()
    assert outcome.verdict == plain.verdict
    assert outcome.margin_lower <= float((found.network(corners_and_samples(found, seed)) @ found.rows.T).min())
    assert divided or (seed, eps) not in CLOSE


def test_after_the_deadline_nothing_is_claimed() -> None:
    """A round of hulls that time runs out in leaves the bounds of the neurons it did not come to as they are."""
    found = drawn(3, 0.5)
    system, signs = found.system, torch.zeros(found.system.size, dtype=torch.int8)
    margin, wanted = system.margins.take(torch.tensor([0])), system.forms.both_signs()
    late = wrong_side._by_hulls(system, wanted, signs, wrong_side.ENDS, margin, deadline=0.0)
    whole = wrong_side._by_hulls(system, wanted, signs, wrong_side.ENDS, margin)
    assert ((late == whole) | late.isneginf()).all()
    result = tightened(system, margin, signs, deadline=0.0)
    assert result is not None
    assert torch.equal(result[0].lower, system.lower)
    assert torch.equal(result[1], signs)
