"""Training rows that are kept out: never trained on, and what is certified on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.interval import interval
from robustcli.data import datasets
from robustcli.data.division import divided
from robustcli.errors import RecipeError
from robustcli.networks.checkpoints import load
from robustcli.networks.layers import BatchNorm
from robustcli.networks.network import margin_rows
from robustcli.norms import exponent
from robustcli.training import runs
from robustcli.training.held_out import certified_errors
from robustcli.training.runs import Outcome, train
from tests.nets import dense
from tests.training.tiny import Watch, few_rows, request, tiny_recipe

EPS = {"l1": 0.05, "l2": 0.02, "linf": 0.004}


def split(rows: int = 60) -> datasets.Split:
    return part(datasets.load("digits", "train"), slice(rows))


def part(data: datasets.Split, index: slice | np.ndarray) -> datasets.Split:
    return dataclasses.replace(data, images=data.images[index], labels=data.labels[index])


def test_shares_are_those_of_the_interval_bound_point_by_point() -> None:
    data, network = split(), dense([64, 10, 10], seed=3)
    # The labels the network gives are right for most points, so that the balls decide.
    guessed = network(data.points(slice(0, 60)).flatten(1)).argmax(1)
    data = dataclasses.replace(
        data, images=data.images.reshape(60, 64), labels=torch.where(torch.arange(60) < 50, guessed, 0).numpy()
    )
    index = range(20, 60)
    expected: dict[str, list[bool]] = {norm: [] for norm in EPS}
    for point in index:
        x, y = data.points(point), data.labels_tensor(point)
        rows, _ = margin_rows(y, 10, torch.float64)
        for norm, eps in EPS.items():
            ball = Ball.around(x, eps, exponent(norm), data.spec.box if norm == "linf" else None)
            proved = bool((interval(network, ball, rows).margins > 0).all())
            expected[norm].append(proved)
    found = certified_errors(network, data, index, EPS)
    for norm, proofs in expected.items():
        assert found[norm] == pytest.approx(1 - sum(proofs) / 40)
        assert 0.1 < found[norm] < 0.95
    every = [all(proofs) for proofs in zip(*expected.values(), strict=True)]
    assert found["union"] == pytest.approx(1 - sum(every) / 40)
    assert list(certified_errors(network, data, index, {"linf": 0.1})) == ["linf"]


def run(root: Path, method: str, **training: object) -> Outcome:
    watch = Watch()
    return train(request(root, tiny_recipe(method, **training)), watch, watch.note)


def test_held_out_rows_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """140 rows, 12 kept out: the weights are those of a training on the first 128 alone."""
    few_rows(monkeypatch, 128)
    alone = run(tmp_path / "alone", "plain")
    assert alone.last is not None
    assert alone.last.certified_error == {}
    few_rows(monkeypatch, 140)
    kept = run(tmp_path / "kept", "plain", held_out=12)
    weights = [load(ended.run.weights).network.weights_hash() for ended in (alone, kept)]
    assert weights[0] == weights[1]
    assert kept.last is not None
    assert list(kept.last.certified_error) == ["l1", "l2", "linf", "union"]
    assert kept.last.certified_error["union"] == max(kept.last.certified_error.values())


def test_of_classes_stored_in_turn_rows_of_every_class_are_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of a training on the other rows alone, in which no class is missing."""
    whole = split(140)
    order = whole.labels.argsort(kind="stable")
    in_turn = part(whole, order)
    rows, kept_out = divided(in_turn.labels, 12)
    assert set(in_turn.labels[rows]) == set(range(10))
    assert len(set(in_turn.labels[kept_out])) >= 8
    weights = []
    for data, held_out in ((in_turn, 12), (part(in_turn, rows), 0)):
        monkeypatch.setattr(runs, "load_split", lambda *_, given=data, **__: given)
        ended = run(tmp_path / str(held_out), "plain", held_out=held_out)
        weights.append(load(ended.run.weights).network.weights_hash())
    assert weights[0] == weights[1]


def test_too_many_rows_kept_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch, 140)
    with pytest.raises(RecipeError, match="held_out 140 leaves none of 140"):
        run(tmp_path, "plain", held_out=140)


def test_batch_normalisation_is_folded_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch, 140)
    ended = run(tmp_path, "ibp", batch_norm=True, initialisation="shi")
    network = load(ended.run.weights).network
    assert not any(isinstance(layer, BatchNorm) for layer in network.layers)
    assert network.name == "1x12"
    watch = Watch()
    stopped = request(tmp_path / "stopped", tiny_recipe("ibp", batch_norm=True, initialisation="shi"))
    for steps in (5, 100):
        train(stopped, watch, watch.note, max_steps=steps)
    assert load(stopped.run.weights).network.weights_hash() == network.weights_hash()
