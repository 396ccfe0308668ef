"""Attacks of bound-distance: in turn or each from scratch, never nearer than the truth, from known witnesses on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustcli.attacks.verify import misclassified
from robustcli.balls import vector_norm
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.distance import DistanceBounder, Settings
from robustcli.evaluation.known import Pool, nearest_of, stacked
from robustcli.networks.network import Network
from robustcli.results.attacks import REPLAY
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Witness, all_witnesses, load
from tests.evaluation.test_distance import batch_of, random_points
from tests.nets import dense, golden_network
from tests.oracle import minimal_distance

UNIT = (0.0, 1.0)
SHORT = {"steps": 20}
ATTACKS = {1.0: ["nearest", "fab", "ead"], 2.0: ["ddn", "fab", "carlini-wagner"], math.inf: ["fmn", "pdpgd", "nearest"]}


def asked(p: float, names: list[str], **values: object) -> Settings:
    return Settings.named(names, p, SHORT if set(names) - {"polished", "linear-region"} else {}, **values)


@pytest.fixture
def network() -> Network:
    network = dense([2, 8, 6, 3], 3)
    network.layers[-1].bias.data -= network(random_points(network, 100, 1)).mean(0)
    return network


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_each_from_scratch_is_never_below_the_truth_and_the_nearest_counts(p: float, network: Network) -> None:
    batch = batch_of(network, random_points(network, 6, 4), p, UNIT)
    settings = asked(p, ATTACKS[p], each=True, regions=None)
    exact = 0
    for row, record in enumerate(DistanceBounder(network, settings)(batch)):
        tried = record.details["upper"]
        assert list(tried) == ATTACKS[p]
        true = minimal_distance(network, batch.points[row], record.label, p, UNIT)
        found = [one["distance"] for one in tried.values() if one["distance"] is not None]
        assert all(one["start"] is None and one["passes"] > 0 and one["seconds"] > 0 for one in tried.values())
        assert all(distance >= true - 1e-9 for distance in found)
        if found:
            assert record.distance_upper is not None
            assert record.distance_upper <= min(found)
        exact += bool(record.exact)
    assert exact == len(batch)


def test_in_turn_each_starts_from_the_nearest_point_so_far(network: Network) -> None:
    batch = batch_of(network, random_points(network, 12, 4), 2.0, UNIT)
    settings = asked(2.0, ["ddn", "polished", "linear-region"], methods=["region", "boxed"], polish=0)
    told = [record for record in DistanceBounder(network, settings)(batch) if "upper" in record.details]
    assert told
    for record in told:
        reach = math.inf
        for one in record.details["upper"].values():
            start = math.inf if one["start"] is None else one["start"]
            assert start <= reach
            reach = min(start, math.inf if one["distance"] is None else one["distance"])
        assert record.distance_upper == pytest.approx(reach, rel=1e-12)
        improved = [record.details["upper"][name] for name in ("polished", "linear-region")]
        assert all(one["distance"] <= one["start"] for one in improved if one["start"] is not None)


def test_settled_points_are_left_alone_unless_every_point_is_asked_about(network: Network) -> None:
    batch = batch_of(network, random_points(network, 12, 4), 2.0, UNIT)
    in_turn = DistanceBounder(network, asked(2.0, ["fab"], methods=["boxed"]))(batch)
    settled = [record for record in in_turn if "upper" not in record.details]
    assert settled
    assert all(record.exact and record.method == "region" for record in settled)
    everywhere = DistanceBounder(network, asked(2.0, ["fab"], each=True, methods=["boxed"]))(batch)
    assert all("fab" in record.details["upper"] for record in everywhere)


def test_the_answer_does_not_depend_on_the_batch(network: Network) -> None:
    batch = batch_of(network, random_points(network, 2, 4), 2.0, UNIT)
    settings = asked(2.0, ["fab", "ddn"], each=True, methods=["region"])
    together = list(DistanceBounder(network, settings)(batch))
    alone = [
        record
        for row in range(len(batch))
        for record in DistanceBounder(network, settings)(batch.take(torch.tensor([row])))
    ]
    assert list(map(timeless, together)) == list(map(timeless, alone))


def timeless(record: PointRecord) -> tuple[object, ...]:
    tried = {name: (one["distance"], one["passes"]) for name, one in record.details["upper"].items()}
    ends = [pytest.approx(end, rel=1e-9) for end in (record.distance_lower, record.distance_upper)]
    return record.index, record.method, *ends, tried


def test_other_norms_are_searched_in_those_around_them(network: Network) -> None:
    batch = batch_of(network, random_points(network, 4, 4), 1.5, UNIT)
    for record in DistanceBounder(network, asked(1.5, ["fab", "ddn"], each=True))(batch):
        one = record.details["upper"]["fab"]["distance"]
        if one is not None:
            assert record.distance_upper is not None
            assert one >= record.distance_upper >= (record.distance_lower or 0)


def test_settings_not_set_leave_the_question_as_it_was() -> None:
    """Answers stored before attacks had names are found again."""
    assert set(Settings().model_dump()) == {"methods", "regions", "attack", "search", "seed", "polish"}
    chosen = asked(2.0, ["fab"], each=True)
    assert Settings.model_validate(chosen.model_dump()) == chosen
    assert Settings.named([], 2.0, {}) == Settings()
    assert Settings(attack=False).searches == []
    assert [one.name for one in Settings().searches] == ["nearest"]


def witness(network: Network, batch: Batch, row: int, x: Tensor, norm: str = "linf", **changes: object) -> Witness:
    values: dict[str, object] = {
        "point": batch.points[row].numpy(),
        "witness": x.numpy(),
        "index": int(batch.indices[row]),
        "label": int(batch.labels[row]),
        "margin": -1.0,
        "norm": norm,
        "distance": 1.0,
        "model": network.weights_hash(),
        "found_by": "pgd",
    }
    return Witness(**{**values, **changes})  # type: ignore[arg-type]


def test_known_witnesses_come_first(tmp_path: Path) -> None:
    """Of any norm, judged again; the nearest in the norm of the question is the start."""
    network, x, _ = golden_network()
    batch = batch_of(network, x, 2.0, UNIT)
    (found,) = DistanceBounder(network, Settings(regions=None), tmp_path)(batch)
    assert found.witness is not None
    best = torch.from_numpy(load(tmp_path / found.witness).witness)
    farther = (batch.points[0] + 1.2 * (best - batch.points[0])).clamp(0, 1)
    assert bool(misclassified(network, torch.stack([best, farther]), batch.labels.expand(2)).all())
    kept = {one.name: one for one in (witness(network, batch, 0, best), witness(network, batch, 0, farther))}
    bare = Settings(attack=False, methods=["region"], polish=0)
    (unaided,) = DistanceBounder(network, bare)(batch)
    (record,) = DistanceBounder(network, bare, kept)(batch)
    distance = float(vector_norm((best - batch.points[0]).flatten(), 2.0))
    assert unaided.distance_upper is None or unaided.distance_upper > distance
    assert (record.method, record.distance_upper) == (REPLAY, pytest.approx(distance, rel=1e-12))
    assert record.details["upper"][REPLAY]["distance"] == pytest.approx(distance, rel=1e-12)


def test_only_what_counts_is_a_start() -> None:
    network, x, _ = golden_network()
    batch = batch_of(network, x, 2.0, UNIT)
    right, points = batch.points[0], 3 * random_points(network, 400, 3) - 1
    wrong = points[misclassified(network, points, batch.labels.expand(400))]
    within = ((wrong >= 0) & (wrong <= 1)).flatten(1).all(1)
    inside, outside = wrong[within], wrong[~within]
    assert len(inside) > 1
    assert len(outside) > 1
    named = [
        witness(network, batch, 0, right),
        witness(network, batch, 0, inside[0], model="another"),
        witness(network, batch, 0, inside[0], index=7),
    ]
    pool = Pool({one.name: one for one in named}, network.weights_hash(), network.input_shape)
    assert [one.name for one in pool.of(batch, 0)] == [named[0].name]
    assert nearest_of(network, batch, 0, stacked(pool.of(batch, 0), batch.points)) is None
    distances = vector_norm((torch.cat([inside, outside]) - right).flatten(1), 2.0)
    candidates = torch.cat([right.unsqueeze(0), inside, outside])
    assert nearest_of(network, batch, 0, candidates) == 1 + int(distances[: len(inside)].argmin())
    assert nearest_of(network, batch, 0, outside) is None
    free = batch_of(network, x, 2.0, None)
    assert nearest_of(network, free, 0, candidates) == 1 + int(distances.argmin())


def test_the_nearest_point_is_kept_with_the_name_of_what_found_it(network: Network, tmp_path: Path) -> None:
    batch = batch_of(network, random_points(network, 6, 4), 2.0, UNIT)
    records = list(DistanceBounder(network, asked(2.0, ["fab"]), tmp_path)(batch))
    stored = {one.name: one for one in all_witnesses(tmp_path)}
    for record in records:
        if record.distance_upper is not None:
            assert record.witness is not None
            assert stored[record.witness].found_by == record.method
            assert stored[record.witness].distance == pytest.approx(record.distance_upper, rel=1e-12)
