"""bound-distance: certified <= true <= found on enumerable networks, exactness, witnesses, norms, batches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robustcli.attacks.settings import NearestSettings
from robustcli.balls import Ball, vector_norm
from robustcli.bounds.alpha import alpha
from robustcli.bounds.crown import crown
from robustcli.bounds.dual import dual
from robustcli.errors import ContradictionError, UnknownNameError, UsageError
from robustcli.evaluation import distance_methods
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.distance import DistanceBounder, Settings, check, least_memory
from robustcli.evaluation.distance_methods import DEFAULT
from robustcli.networks.network import Network, margin_rows, margins
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import load
from tests.nets import convolutional, dense, golden_network
from tests.oracle import Box, minimal_distance

UNIT = (0.0, 1.0)
QUICK = Settings(search=NearestSettings(rounds=6, steps=20))
ALL = Settings(regions=None, attack=False)


def batch_of(network: Network, points: Tensor, p: float, box: Box, first: int = 0) -> Batch:
    logits = network(points)
    labels = logits.argmax(1)
    indices = torch.arange(first, first + len(points))
    ball = Ball(points, torch.zeros(len(points), dtype=torch.float64), p, box)
    return Batch(indices, points, labels, labels, margins(logits, labels), ball)


def random_points(network: Network, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *network.input_shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_true_distance_lies_between(p: float, box: Box) -> None:
    exact = 0
    for seed in (3, 7, 9):
        network = dense([2, 5, 4, 3], seed) if seed == 7 else dense([3, 8, 3], seed)
        points = random_points(network, 4, seed)
        batch = batch_of(network, points, p, box)
        for row, record in enumerate(DistanceBounder(network, QUICK)(batch)):
            true = minimal_distance(network, points[row], record.label, p, box)
            assert record.distance_lower is not None
            assert record.distance_lower <= true + 1e-9
            assert record.distance_upper is None or true <= record.distance_upper + 1e-9
            if record.exact:
                exact += 1
                assert record.distance_lower == pytest.approx(true, abs=1e-7)
                assert record.distance_upper == pytest.approx(true, abs=1e-6)
            alone = record.details["lower"]
            assert list(alone) == [name for name in DEFAULT if box is not None or name != "boxed"]
            assert all(value is None or value <= true for value in alone.values())
            assert record.distance_lower == max(alone.values())
    assert exact > 0


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_complete_verification_ends_at_the_true_distance(p: float, box: Box) -> None:
    """Also from a poor point: the verifier finds the nearer ones."""
    asked = Settings(methods=["region", "complete"], search=NearestSettings(rounds=2, steps=3), polish=2)
    met = nearer = 0
    for widths, seed in (([2, 5, 4, 3], 7), ([3, 8, 3], 1), ([4, 6, 6, 3], 5)):
        network = dense(widths, seed)
        batch = batch_of(network, random_points(network, 3, seed), p, box)
        for row, record in enumerate(DistanceBounder(network, asked)(batch)):
            true = minimal_distance(network, batch.points[row], record.label, p, box)
            nearer += record.method == "complete"
            if "complete" in record.details:
                assert (record.method == "complete") == (record.details["complete"]["nearer"] > 0)
            assert "complete" not in record.details.get("upper", {})  # attacks are compared, this is none
            if record.distance_upper is None:
                continue  # nothing to begin with: no ball is asked about
            met += 1
            assert record.exact
            assert record.distance_lower == pytest.approx(true, rel=2e-6)
            assert record.distance_upper == pytest.approx(true, rel=2e-6)
    assert met > 0
    assert nearer > 0 or p != 2.0 or box is not None


def test_complete_verification_out_of_time_proves_less_but_nothing_false() -> None:
    network = dense([3, 7, 7, 3], 4)
    points = random_points(network, 4, 4)
    batch = batch_of(network, points, 2.0, UNIT)
    (none, some) = (
        DistanceBounder(network, Settings(methods=["complete"], time_limit=seconds))(batch) for seconds in (0, 20)
    )
    for one, other in zip(none, some, strict=True):
        assert one.distance_lower <= other.distance_lower
        assert other.exact or other.distance_upper is None
    (record, *_) = DistanceBounder(network, Settings(methods=["kw", "complete"]))(batch_of(network, points, 1.5, None))
    assert list(record.details["lower"]) == ["kw"]
    for refused in (
        lambda: Settings(methods=["kw"], time_limit=5),
        lambda: check(Settings(methods=["Complete"], time_limit=5), 1.5, None),
    ):
        with pytest.raises(UsageError, match="complete"):
            refused()


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_without_a_budget_both_ends_are_the_true_distance(p: float, box: Box) -> None:
    for widths, seed in (([2, 5, 4, 3], 5), ([3, 8, 3], 1)):
        network = dense(widths, seed)
        batch = batch_of(network, random_points(network, 2, seed), p, box)
        for row, record in enumerate(DistanceBounder(network, ALL)(batch)):
            true = minimal_distance(network, batch.points[row], record.label, p, box)
            if math.isinf(true):
                assert record.distance_upper is None
                continue
            assert record.exact
            assert record.distance_lower == pytest.approx(true, abs=1e-7)
            assert record.distance_upper == pytest.approx(true, rel=2e-6)


def golden(p: float, box: Box = UNIT, settings: Settings = QUICK) -> PointRecord:
    network, x, _ = golden_network()
    (record,) = DistanceBounder(network, settings)(batch_of(network, x, p, box, first=41))
    return record


def test_golden_point() -> None:
    record = golden(math.inf)
    assert (record.index, record.label, record.verdict, record.exact) == (41, 1, None, False)
    alone = {"region": 0.025, "boxed": 0.025, "universal": 0.025, "kw": 0.061834}
    assert {name: record.details["lower"][name] for name in alone} == pytest.approx(alone, abs=2e-5)
    assert record.distance_lower == pytest.approx(0.061834, abs=2e-5)
    assert record.distance_upper == pytest.approx(0.112308, abs=1e-6)
    assert record.details["neighbours"] == {"regions": 6, "complete": False}
    found = golden(math.inf, settings=ALL)
    assert found.exact
    assert found.distance_lower == pytest.approx(0.1123076923, abs=1e-9)
    assert found.method == "neighbours"
    assert record.margin_upper is not None
    assert record.margin_upper < 0
    assert record.details["rho"]["l1"] == pytest.approx(0.039130, abs=1e-6)
    assert record.details["rho"]["linf"] == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_radii_of_any_bound_are_certified_and_below_the_truth(p: float, box: Box) -> None:
    network = dense([2, 8, 6, 3], 3)
    network.layers[-1].bias.data -= network(random_points(network, 100, 1)).mean(0)
    settings = QUICK.model_copy(update={"methods": ["kw", "crown", "alpha"]})
    batch = batch_of(network, random_points(network, 4, 4), p, box)
    rows, _ = margin_rows(batch.labels, 3, torch.float64)
    found = {"kw": dual, "crown": crown, "alpha": alpha}
    better = 0
    for row, record in enumerate(DistanceBounder(network, settings)(batch)):
        alone = record.details["lower"]
        assert list(alone) == ["kw", "crown", "alpha"]
        true = minimal_distance(network, batch.points[row], record.label, p, box) if box else math.inf
        for name, radius in alone.items():
            assert 0 < radius <= true
            ball = Ball.around(batch.points[row : row + 1], radius * (1 - 1e-9), p, box)
            assert float(found[name](network, ball, rows[row : row + 1]).margins.min()) > 0
        assert alone["alpha"] >= alone["crown"] * (1 - 3e-3)  # up to the width of the brackets
        better += alone["alpha"] > alone["kw"] * 1.01
        assert record.distance_lower == max(alone.values())
    assert better > 0


def test_universal_radius_for_any_norm() -> None:
    alone = QUICK.model_copy(update={"methods": ["region", "universal"]})
    record = golden(2.0, settings=alone)
    assert list(record.details["lower"]) == ["region", "universal"]
    assert record.details["lower"]["universal"] == pytest.approx(0.034066, abs=1e-6)
    assert record.distance_lower == pytest.approx(0.035355, abs=1e-6)
    other = golden(1.5, settings=alone)
    assert other.distance_lower is not None
    assert other.distance_upper is not None
    assert other.details["lower"]["universal"] <= other.distance_lower <= other.distance_upper
    assert record.distance_lower < other.distance_lower < 0.039130


def test_without_attack_only_the_hyperplanes_are_tried() -> None:
    record = golden(2.0, settings=Settings(methods=["boxed"], attack=False, polish=0))
    assert record.method in ("region", "none")
    assert record.distance_lower == pytest.approx(0.035355, abs=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_witness_is_misclassified_inside_the_box_at_the_distance(p: float, tmp_path: Path) -> None:
    network = convolutional(9)
    points = random_points(network, 3, 0)
    batch = batch_of(network, points, p, UNIT)
    found = 0
    for row, record in enumerate(DistanceBounder(network, QUICK, tmp_path)(batch)):
        if record.witness is None:
            assert record.distance_upper is None
            assert record.reason == "no misclassified point found"
            continue
        found += 1
        stored = torch.from_numpy(load(tmp_path / record.witness).witness)
        assert stored.dtype == torch.float64
        assert ((stored >= 0) & (stored <= 1)).all()
        assert float(vector_norm((stored - points[row]).flatten(), p)) == pytest.approx(record.distance_upper)
        assert margins(network(stored.unsqueeze(0)), batch.labels[row : row + 1]) < 0
    assert found > 0


def test_the_same_for_every_batch() -> None:
    network = convolutional(3).float()
    points = random_points(network, 5, 1)
    bounder = DistanceBounder(network, QUICK)
    whole = bounder(batch_of(network.double(), points, 2.0, UNIT))
    for row, record in enumerate(whole):
        (alone,) = bounder(batch_of(network.double(), points[row : row + 1], 2.0, UNIT, first=row))
        assert alone.exact == record.exact
        assert alone.distance_lower == pytest.approx(record.distance_lower, abs=1e-9)
        assert alone.distance_upper == pytest.approx(record.distance_upper, abs=1e-6)


def test_a_contradiction_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance_methods, "certified_radius", lambda *arguments: np.array([5.0]))
    with pytest.raises(ContradictionError, match="point 41"):
        golden(math.inf)


def test_no_other_class_reachable() -> None:
    """A constant network: nothing certified is finite, nothing is found."""
    network = dense([2, 3, 2])
    network.layers[2].weight.data.zero_()
    network.layers[2].bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    (record,) = DistanceBounder(network, QUICK)(batch_of(network, torch.full((1, 2), 0.4).double(), 2.0, UNIT))
    assert record.distance_upper is None
    assert record.exact is False
    assert record.distance_lower is None  # proved: there is no other class
    boxed = batch_of(network, torch.full((1, 2), 0.4).double(), 2.0, UNIT)
    (record,) = DistanceBounder(network, QUICK)(boxed)
    assert record.details["lower"]["kw"] is None
    assert record.details["lower"]["neighbours"] is None


def test_a_point_on_a_boundary_is_still_bounded_by_kw() -> None:
    network, _, _ = golden_network()
    x = torch.tensor([[0.6, 0.35]], dtype=torch.float64)  # first unit: .6 - .7 + .1 = 0
    (record,) = DistanceBounder(network, QUICK)(batch_of(network, x, 2.0, None))
    assert record.details["lower"]["region"] == 0
    assert record.details["lower"]["kw"] > 0
    assert record.distance_lower == max(record.details["lower"].values())
    (record,) = DistanceBounder(network, ALL)(batch_of(network, x, 2.0, None))
    true = minimal_distance(network, x[0], record.label, 2.0, None)
    assert record.distance_lower == pytest.approx(true, abs=1e-7)


def test_settings() -> None:
    assert Settings(methods=["kw", "region"]).methods == ["region", "kw"]
    assert "memory" not in Settings(memory=2**30).model_dump()
    with pytest.raises(UnknownNameError, match="kww"):
        Settings(methods=["kww"])
    network = convolutional(1)
    with pytest.raises(UsageError, match="too little memory"):
        DistanceBounder(network, Settings(memory=least_memory(network) - 1))


def test_memory_changes_no_answer() -> None:
    network = convolutional(1)
    batch = batch_of(network, random_points(network, 2, 3), 2.0, UNIT)
    little, much = (DistanceBounder(network, Settings(memory=bytes_, attack=False))(batch) for bytes_ in (10**5, 2**30))
    for one, other in zip(little, much, strict=True):
        assert one.details["lower"] == pytest.approx(other.details["lower"], rel=1e-9)
        assert (one.distance_upper or 0) == pytest.approx(other.distance_upper or 0, rel=1e-9)
