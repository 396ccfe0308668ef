"""The attacks that look for the nearest misclassified point: what holds for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from robustcli.attacks.carlini_wagner import carlini_wagner
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.ddn import ddn
from robustcli.attacks.ead import ead
from robustcli.attacks.fab import fab
from robustcli.attacks.fmn import fmn
from robustcli.attacks.nearest import nearest
from robustcli.attacks.pdpgd import pdpgd
from robustcli.attacks.settings import NearestSettings
from robustcli.attacks.settings_nearest import (
    CarliniWagnerSettings,
    DdnSettings,
    EadSettings,
    FabSettings,
    FmnSettings,
    PdpgdSettings,
)
from robustcli.balls import Ball, vector_norm
from robustcli.boxes import Box
from robustcli.errors import UnknownNameError
from robustcli.networks.network import Network, margins
from tests.attacks.nearest_cases import NORMS, UNIT, flat_network, linear, linear_distances, points, task
from tests.nets import dense, golden_network
from tests.oracle import minimal_distance


class Case(NamedTuple):
    """An attack, settings that converge on small networks, and how far above the optimum it may end there."""

    run: Callable[[Task, Any], Found]
    settings: Any
    norms: list[float]
    near: float


CASES = {
    "fab": Case(fab, FabSettings(steps=20, restarts=2, targets=2), NORMS, 1e-6),
    "fab-t": Case(fab, FabSettings(steps=20, restarts=0, targets=9), NORMS, 1e-6),
    "carlini-wagner": Case(carlini_wagner, CarliniWagnerSettings(searches=6, steps=80, constant=0.1), [2.0], 0.05),
    "ddn": Case(ddn, DdnSettings(steps=80), [2.0], 0.1),
    "fmn": Case(fmn, FmnSettings(steps=80), NORMS, 1e-3),
    "pdpgd": Case(pdpgd, PdpgdSettings(steps=200), NORMS, 0.15),
    "ead": Case(ead, EadSettings(searches=5, steps=60, constant=0.1), [1.0, 2.0], 0.1),
    "nearest": Case(nearest, NearestSettings(rounds=6, steps=15), NORMS, 0.02),
}
PAIRS = [(name, p) for name, case in CASES.items() for p in case.norms]
every = pytest.mark.parametrize(("name", "p"), PAIRS)
each = pytest.mark.parametrize(("name", "p"), [(name, case.norms[-1]) for name, case in CASES.items()])


def attacked(name: str, network: Network, x: Tensor, y: Tensor, p: float, box: Box = UNIT, **more: Any) -> Found:
    case = CASES[name]
    return case.run(task(network, x, y, p, box, **more), case.settings)


def check(found: Found, network: Network, x: Tensor, y: Tensor, p: float, box: Box) -> None:
    """Successes are misclassified points of the box at the distance told."""
    hit = found.success
    assert not bool(found.points.isnan().any() | found.margins.isnan().any() | found.distances.isnan().any())
    assert bool((margins(network.double()(found.points), y)[hit] < 0).all())
    assert bool(found.distances[~hit].isinf().all())
    distances = vector_norm((found.points - x).flatten(1), p)
    torch.testing.assert_close(distances[hit], found.distances[hit], rtol=0, atol=1e-15)
    assert box is None or bool(((found.points >= box[0]) & (found.points <= box[1])).all())


@pytest.mark.parametrize("boxed", [True, False])
@every
def test_linear_classifiers_in_closed_form(name: str, p: float, boxed: bool) -> None:
    network, x, y = linear()
    box = UNIT if boxed else None
    wanted = linear_distances(network, x, y, p, box)
    found = attacked(name, network, x, y, p, box)
    check(found, network, x, y, p, box)
    assert int(found.success.sum()) >= 11
    excess = found.distances / wanted - 1
    assert float(excess.min()) > -1e-9
    assert float(excess.median()) < CASES[name].near


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_where_nothing_is_in_the_ball_the_lowest_margin_seen_is_told(name: str, p: float) -> None:
    network, x, y = linear()
    eps = 0.9 * float(linear_distances(network, x, y, p, UNIT).min())
    found = attacked(name, network, x, y, p, eps=eps)
    assert not bool(found.success.any())
    assert bool((found.margins < margins(network(x), y)).all())
    assert bool(Ball.around(x, eps, p, UNIT).contains(found.points).all())


@every
def test_enumerated_networks_are_nearly_solved(name: str, p: float) -> None:
    network = dense([3, 6, 4, 3], 7)
    x, y = points(network, 8)
    wanted = torch.tensor([minimal_distance(network, x[i], int(y[i]), p, UNIT) for i in range(8)])
    found = attacked(name, network, x, y, p)
    check(found, network, x, y, p, UNIT)
    excess = found.distances / wanted - 1
    assert float(excess[wanted.isfinite()].min()) > -1e-6  # the precision of the enumeration
    assert float(excess.median()) < max(CASES[name].near, 1e-2)


@every
def test_the_golden_distance_is_never_undercut(name: str, p: float) -> None:
    network, x, y = golden_network()
    found = attacked(name, network, x, y, p, None)
    assert 0.112308 - 1e-6 < float(found.distances) < 0.7


@every
def test_single_precision_batches_and_order_change_nothing(name: str, p: float) -> None:
    network = dense([20, 12, 12, 4], 3).float()
    x, y = points(network, 66)
    together = attacked(name, network, x, y, p)
    check(together, network, x, y, p, UNIT)
    assert int(together.success.sum()) > 60
    some = torch.tensor([65, 3, 40])
    apart = attacked(name, network, x[some], y[some], p, indices=some)
    assert torch.equal(apart.points, together.points[some])
    assert torch.equal(apart.passes, together.passes[some])


@each
def test_misclassified_points_take_no_work(name: str, p: float) -> None:
    network, x, y = golden_network()
    both, labels = torch.cat([x, x]), torch.tensor([0, int(y)])
    found = attacked(name, network, both, labels, p)
    assert float(found.distances[0]) == 0
    assert torch.equal(found.points[0], x[0])
    assert int(found.passes[0]) == 0 < int(found.passes[1])


@every
def test_flat_networks_do_no_harm(name: str, p: float) -> None:
    for classes, boxes in ((1, [UNIT]), (3, [UNIT, None])):
        network = flat_network(classes)
        x = torch.full((2, 4), 0.5, dtype=torch.float64)
        y = torch.zeros(2, dtype=torch.int64)
        for box in boxes:
            found = attacked(name, network, x, y, p, box)
            assert not bool(found.success.any())
            assert torch.equal(found.points, x)


@each
def test_saturated_and_two_class_networks(name: str, p: float) -> None:
    """Margins of some ten thousand, where a softmax is 0 or 1 in any precision."""
    network = dense([6, 8, 2], 4)
    x, y = points(network, 10)
    plain = attacked(name, network, x, y, p)
    network.layers[-1].weight.data *= 1e4
    network.layers[-1].bias.data *= 1e4
    network = network.float()
    found = attacked(name, network, x, y, p)
    check(found, network, x, y, p, UNIT)
    assert int(plain.success.sum()) >= 5
    assert int(found.success.sum()) >= int(plain.success.sum()) - 1


@each
def test_radii_are_the_distances_worth_having(name: str, p: float) -> None:
    network, x, y = linear()
    free = attacked(name, network, x, y, p)
    wide = attacked(name, network, x, y, p, eps=1e3)
    torch.testing.assert_close(wide.distances, free.distances, rtol=1e-6, atol=0)
    eps = float(free.distances.median()) * 1.01
    bounded = attacked(name, network, x, y, p, eps=eps)
    assert bool((bounded.distances[bounded.success] <= eps).all())
    assert bool(bounded.success[free.distances <= eps * 0.98].all())
    assert not bool(attacked(name, network, x, y, p, eps=0.0).success.any())


@each
def test_only_rivals_are_worth_work_and_nothing_is_nothing(name: str, p: float) -> None:
    network, x, y = linear()
    case = CASES[name]
    asked = task(network, x, y, p)
    none = Task.of(network, asked.ball, y, asked.seeds, rivals=torch.zeros_like(asked.rivals))
    found = case.run(none, case.settings)
    assert not bool(found.success.any())
    assert int(found.passes.sum()) == 0
    assert len(case.run(asked.take(torch.arange(0)), case.settings).points) == 0


@pytest.mark.parametrize("name", [name for name in CASES if name != "nearest"])
def test_boxes_of_any_side(name: str) -> None:
    """The same question in grey levels of 0 to 255: the distances are 255 times as large."""
    network = dense([8, 10, 3], 5)
    x, y = points(network, 6)
    stretched = dense([8, 10, 3], 5)
    stretched.load_state_dict(network.state_dict())
    stretched.layers[0].weight.data /= 255
    for p in CASES[name].norms[-1:]:
        small = attacked(name, network, x, y, p)
        large = attacked(name, stretched, 255 * x, y, p, (0.0, 255.0))
        ratio = large.distances / small.distances / 255
        assert float(ratio[small.success].log().abs().median()) < 0.02


@each
def test_other_norms_are_refused(name: str, p: float) -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, 1.0, 1.5, UNIT)
    asked = Task.of(network, ball, y, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UnknownNameError, match=r"l1\.5"):
        CASES[name].run(asked, CASES[name].settings)


@pytest.mark.parametrize("p", NORMS)
def test_more_runs_and_targets_are_never_farther(p: float) -> None:
    network = dense([20, 12, 12, 4], 3).float()
    x, y = points(network, 10)
    asked = task(network, x, y, p)
    few = fab(asked, FabSettings(steps=10, restarts=1, targets=0))
    more = fab(asked, FabSettings(steps=10, restarts=3, targets=2))
    assert bool((more.distances <= few.distances).all())
    one = fmn(asked, FmnSettings(steps=30, restarts=1))
    three = fmn(asked, FmnSettings(steps=30, restarts=3))
    assert bool((three.distances <= one.distances).all())
    assert int(three.passes[0]) == 3 * int(one.passes[0])
    assert math.isfinite(float(three.distances.median()))
