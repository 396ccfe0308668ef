"""Complete verification against brute force over all linear regions, and what its limits mean."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robustcli.attacks.verify import confirm
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound import verify as module
from robustcli.branch_and_bound.leaves import closed
from robustcli.errors import RobustError
from robustcli.networks.network import Network
from tests.branch_and_bound.cases import Case, case, center
from tests.nets import dense
from tests.oracle import minimal_distance, minimal_margin
from tests.soundness.suite import JUST_OUTSIDE, asked

NORMS = [1.0, 2.0, math.inf]
BOXES = [None, (0.0, 1.0)]


def small(seed: int) -> Network:
    return dense([[3, 5, 4, 3], [2, 8, 3], [4, 4, 4, 2, 3], [3, 3]][seed % 4], seed)


@pytest.mark.parametrize("wider", [0.0, 3.0])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("p", NORMS)
def test_verdicts_are_those_of_brute_force(p: float, box: tuple[float, float] | None, wider: float) -> None:
    """Just inside and just outside the true distance; with hidden bounds so wide that hardly a unit is stable, too."""
    decided = {"robust": 0, "vulnerable": 0}
    for seed in range(12):
        network = small(seed)
        x = center(network, seed)
        distance = minimal_distance(network, x, int(network(x).argmax(1)), p, box)
        if not 1e-3 < distance < 50:
            continue
        for factor, verdict in ((0.999, "robust"), (1.001, "vulnerable")):
            found = case(network, x, distance * factor, p, box, wider).verify()
            assert found.verdict == verdict, found
            decided[verdict] += 1
            if found.witness is not None:
                ball = case(network, x, distance * factor, p, box).ball
                judged = confirm(network, ball, network(x).argmax(1), found.witness)
                assert bool(judged.success[0])
                assert found.witness_margin == pytest.approx(float(judged.margins[0]))
    assert min(decided.values()) >= 4


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("p", NORMS)
def test_the_reported_bound_is_a_bound(p: float, box: tuple[float, float] | None) -> None:
    """At every limit the proved margin stays below the smallest margin, and more nodes never lower it."""
    asked = 0
    for seed in range(6):
        network = small(seed)
        x = center(network, seed)
        found = case(network, x, 0.35, p, box, wider=0.5)
        true = minimal_margin(network, x, found.label, 0.35, p, box)
        before = -math.inf
        for nodes in (1, 5, 20, 200):
            outcome = found.verify(nodes=nodes)
            assert outcome.margin_lower <= true + 1e-9
            assert outcome.nodes <= max(nodes, len(found.targets)) + 1
            assert outcome.margin_lower >= before - 1e-12 or outcome.verdict != "unknown"
            before = outcome.margin_lower
            asked += 1
    assert asked == 24


@pytest.mark.parametrize("p", NORMS)
def test_leaves_decide_alone(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any optimisation every proof must come from fully split domains in the end."""
    nothing = module.Schedule(0, 0.0, 0.0)
    monkeypatch.setattr(module, "ROOT", nothing)
    monkeypatch.setattr(module, "INSIDE", nothing)
    decided = 0
    for seed in (0, 8, 10, 12):
        network = small(seed)
        x = center(network, seed)
        distance = minimal_distance(network, x, int(network(x).argmax(1)), p, (0.0, 1.0))
        if not 1e-3 < distance < 50:
            continue
        for factor, verdict in ((0.999, "robust"), (1.001, "vulnerable")):
            found = case(network, x, distance * factor, p, (0.0, 1.0), wider=2.0).verify()
            assert found.verdict == verdict
            decided += 1
    assert decided >= 2


def idle(seed: int) -> tuple[Network, Tensor]:
    """A network with a unit without influence, and a point at which it is just off."""
    network = dense([2, 3, 2], seed)
    network.layers[2].weight.data[:, 0] = 0.0
    x = center(network, seed)
    network.layers[0].bias.data[0] = -float(network.layers[0].weight[0] @ x[0]) - 1e-6
    return network, x


def test_leaves_hold_points_on_both_sides_of_idle_units() -> None:
    """A unit without influence has no sign in any domain: it must not exclude a point."""
    found = 0
    for p in NORMS:
        for seed in range(20):
            network, x = idle(seed)
            label = int(network(x).argmax(1))
            distance = minimal_distance(network, x, label, p, (0.0, 1.0))
            if not 1e-3 < distance < 50:
                continue
            asked = case(network, x, distance * 1.001, p, (0.0, 1.0), wider=2.0)
            system = asked.system
            leaves = [torch.tensor(signs, dtype=torch.int8) for signs in itertools.product((-1, 1), repeat=system.size)]
            answers = [
                closed(network, asked.ball, label, asked.layers, system, signs, asked.targets[0]) for signs in leaves
            ]
            assert not all(proved for proved, _ in answers)
            found += 1
    assert found >= 6


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("p", NORMS)
def test_planted_counterexamples_are_never_proved_away(p: float, box: tuple[float, float] | None) -> None:
    """Just beyond the distance of a misclassified input; `tests/soundness` asks more."""
    verdicts = []
    for each in asked(p, box, 0):
        for row in range(len(each)):
            point, planted = each.points[row : row + 1], each.planted[row : row + 1]
            found = case(each.network, point, float(each.distances[row]) * JUST_OUTSIDE, p, box)
            outcome = found.verify(nodes=60)
            assert outcome.verdict != "robust"
            assert outcome.margin_lower <= float((each.network(planted) @ found.rows.T).min())
            verdicts.append(outcome.verdict)
    assert verdicts.count("vulnerable") >= 0.8 * len(verdicts) >= 8


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("p", NORMS)
def test_without_its_own_attacks_it_proves_nothing_false(
    p: float, box: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counterexamples found early hide what the bounds would have claimed."""
    monkeypatch.setattr(module._Search, "judge", lambda search, points: None)
    for each in asked(p, box, 1):
        for row in range(len(each)):
            point, planted = each.points[row : row + 1], each.planted[row : row + 1]
            found = case(each.network, point, float(each.distances[row]) * JUST_OUTSIDE, p, box)
            outcome = found.verify(nodes=100)
            assert outcome.verdict == "unknown"
            assert outcome.margin_lower <= float((each.network(planted) @ found.rows.T).min())


def hard() -> Case:
    """A point that takes some dozens of domains."""
    network = dense([5, 12, 10, 4], 12)
    return case(network, center(network, 12), 0.5, math.inf, (0.0, 1.0), wider=1.0)


def test_the_same_node_limit_gives_the_same_answer() -> None:
    first, second = (replace(hard().verify(nodes=20), seconds=0.0, witness=None) for _ in range(2))
    assert first == second
    assert first.nodes >= 9


def test_limits_are_no_verdict() -> None:
    assert hard().verify().verdict == "robust"
    for limits, reason in (({"seconds": 0.0}, "time limit"), ({"nodes": 5}, "node limit")):
        outcome = hard().verify(**limits)
        assert (outcome.verdict, outcome.reason) == ("unknown", reason)
        assert outcome.margin_lower <= 0


def test_bounds_that_are_no_numbers_prove_nothing() -> None:
    found = case(dense([3, 5, 3], 1), center(dense([3, 3]), 1), 0.1, math.inf, None)
    wrong = [Bounds(torch.full_like(layer.lower, math.nan), layer.upper) for layer in found.layers]
    outcome = replace(found, layers=wrong).verify()
    assert outcome.verdict == "unknown"
    assert outcome.margin_lower <= min(found.margins)


def test_wrong_phases_are_noticed() -> None:
    """All units declared inactive: another function than the network's."""
    found = case(dense([3, 5, 3], 1), center(dense([3, 3]), 1), 0.1, math.inf, None)
    wrong = [Bounds(-torch.ones_like(layer.lower), -torch.ones_like(layer.upper)) for layer in found.layers]
    outcome = replace(found, layers=wrong).verify()
    assert outcome.verdict == "unknown"
    assert outcome.reason is not None
    assert "differs from the forward pass" in outcome.reason


def test_an_error_on_the_way_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains that were taken when it struck are not forgotten: only what was known before counts."""

    def broken(*_: object) -> object:
        raise RobustError("the solver gave up", "try again")

    monkeypatch.setattr(module, "choose", broken)
    found = hard()
    outcome = found.verify()
    assert (outcome.verdict, outcome.reason) == ("unknown", "the solver gave up")
    assert min(found.margins) <= outcome.margin_lower <= 0
    truth = found.network(found.ball.sample(500, torch.Generator().manual_seed(0))[0]) @ found.rows.T
    assert outcome.margin_lower <= float(truth.min())


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("box", BOXES)
def test_a_ball_of_one_point(p: float, box: tuple[float, float] | None) -> None:
    """Whatever the hidden bounds: the clean margin decides."""
    network = dense([3, 5, 3], 2)
    found = case(network, center(network, 2), 0.0, p, box, wider=10.0)
    outcome = found.verify(nodes=2000)
    assert outcome.verdict == "robust"
    assert 0 < outcome.margin_lower <= float((network(found.ball.center) @ found.rows.T).min())


def test_nothing_asked_is_proved() -> None:
    """A point whose targets are all closed already."""
    found = replace(case(small(0), center(small(0), 0), 0.1, math.inf, None), targets=[], margins=[])
    outcome = found.verify()
    assert outcome.verdict == "robust"
    assert outcome.margin_lower == math.inf
    assert outcome.nodes == 0
