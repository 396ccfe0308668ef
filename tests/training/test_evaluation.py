"""Evaluation during training: the bounds are those of `robust certify`, and the training does not notice it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcli.balls import Ball
from robustcli.data.datasets import Split
from robustcli.errors import UsageError
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import Certifier, Settings
from robustcli.networks.checkpoints import load
from robustcli.networks.network import Network, margins
from robustcli.norms import exponent
from robustcli.results.runs import RunFolder
from robustcli.results.schema import EvaluationRecord
from robustcli.training.evaluation import Evaluation, Wish, default_epochs
from robustcli.training.runs import Outcome, prepare, train
from tests.training.tiny import METHODS, Killed, Watch, few_rows, request, tiny_recipe

FAST: dict[str, Any] = {"optimiser": {"name": "adam", "lr": 0.01}}
ALL = Wish((1, 2, 3), 50)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)


def lines(run: RunFolder) -> list[dict[str, Any]]:
    """The evaluations on file, without their seconds."""
    found = [json.loads(line) for line in run.evaluations.read_text().splitlines()]
    for line in found:
        del line["seconds"]
    return found


def evaluated(root: Path, method: str = "kw", wish: Wish | None = ALL, watch: Watch | None = None) -> Outcome:
    watch = watch or Watch()
    return train(request(root, tiny_recipe(method)), watch, watch.note, evaluate=wish)


def same_weights(first: RunFolder, second: RunFolder) -> bool:
    return load(first.weights).network.weights_hash() == load(second.weights).network.weights_hash()


def certified(network: Network, split: Split, norm: str, eps: float, count: int) -> set[int]:
    """The points that `robust certify --method dual` certifies."""
    exact = network.double()
    points, labels = split.points(slice(0, count), torch.float64), split.labels_tensor(slice(0, count))
    clean = margins(exact(points), labels)
    right = (clean > 0).nonzero().flatten()
    ball = Ball.around(points[right], eps, exponent(norm), split.spec.box)
    batch = Batch(right, points[right], labels[right], labels[right], clean[right], ball)
    records = Certifier(exact, Settings(methods=["dual"]))(batch)
    return {record.index for record in records if record.verdict == "robust"}


@pytest.mark.parametrize(
    ("epochs", "chosen"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (100, (1, 2, 5, 10, 20, 50, 100)), (60, (1, 2, 5, 10, 20, 50, 60))],
)
def test_default_epochs(epochs: int, chosen: tuple[int, ...]) -> None:
    assert default_epochs(epochs) == chosen
    assert Wish.of(None, None, epochs) == Wish(chosen)


def test_epochs_as_typed() -> None:
    assert Wish.of("5, 1,5", 200, 10) == Wish((1, 5), 200)
    for wrong in ("0", "11", "", "1,", "x", "1.5", "-1"):
        with pytest.raises(UsageError, match="--evaluate-at"):
            Wish.of(wrong, None, 10)


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_are_the_same_with_and_without(tmp_path: Path, method: str) -> None:
    with_, without = evaluated(tmp_path / "a", method), evaluated(tmp_path / "b", method, wish=None)
    assert same_weights(with_.run, without.run)
    assert not without.run.evaluations.exists()
    assert len(lines(with_.run)) == 3


def test_bounds_are_those_of_certify(tmp_path: Path) -> None:
    watch, recipe = Watch(), tiny_recipe("kw", epochs=30, augmentation="none", **FAST)
    eps = {"l1": 0.9, "l2": 0.5, "linf": 0.15}  # neither ball lies in the other
    recipe = recipe.model_copy(update={"eps": eps})
    ended = train(request(tmp_path, recipe), watch, print, evaluate=Wish((1, 30)))
    last = watch.evaluations[-1]
    network, test = load(ended.run.weights).network, prepare(request(tmp_path)).test
    sets = {norm: certified(network, test, norm, radius, 140) for norm, radius in eps.items()}
    assert last.eps == eps
    both = set.intersection(*sets.values())
    assert 0 < len(both) < min(map(len, sets.values()))
    assert last.upper == pytest.approx(
        {**{norm: 1 - len(found) / 140 for norm, found in sets.items()}, "union": 1 - len(both) / 140}
    )
    assert (last.epoch, last.model, last.points, last.boxed) == (30, network.weights_hash(), 140, True)
    for record in watch.evaluations:
        assert record.error <= min(record.upper.values()) <= max(record.upper.values()) <= record.upper["union"]
    stored = [EvaluationRecord.model_validate_json(line) for line in ended.run.evaluations.read_text().splitlines()]
    assert stored == watch.evaluations == ended.evaluations


def test_norms_the_recipe_leaves_out_take_the_radius_of_the_data_set(tmp_path: Path) -> None:
    recipe = tiny_recipe().model_copy(update={"eps": {"linf": 0.05}})
    trainer = prepare(request(tmp_path, recipe))
    made = Evaluation(Wish((1,)), recipe, trainer.test, trainer.run_folder, trainer.group)
    assert made.eps == {"l1": trainer.test.spec.eps["l1"], "l2": trainer.test.spec.eps["l2"], "linf": 0.05}
    assert made.points == 140
    with pytest.raises(UsageError, match="140 test points"):
        Evaluation(Wish((1,), 141), recipe, trainer.test, trainer.run_folder, trainer.group)


class Stubborn(Watch):
    """Does something in the middle of the evaluation of epoch 2."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self.action = action

    def evaluating(self, epoch: int, done: int, total: int) -> None:
        if epoch == 2 and done > 0:
            self.action()


def kill() -> None:
    raise Killed


def test_a_killed_evaluation_is_made_again_and_a_finished_one_is_not(tmp_path: Path) -> None:
    straight = evaluated(tmp_path / "straight")
    watch = Stubborn(kill)
    with pytest.raises(Killed):
        evaluated(tmp_path / "killed", watch=watch)
    assert [record.epoch for record in watch.evaluations] == [1]
    watch = Watch()
    ended = evaluated(tmp_path / "killed", watch=watch)
    assert [record.epoch for record in watch.evaluations] == [2, 3]
    assert watch.steps == [9, 10, 11, 12]
    assert same_weights(straight.run, ended.run)
    assert lines(straight.run) == lines(ended.run)


def test_a_signal_stops_an_evaluation_between_two_batches(tmp_path: Path) -> None:
    straight = evaluated(tmp_path / "straight")
    stopped = evaluated(tmp_path / "signalled", watch=Stubborn(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert (stopped.status, stopped.steps) == ("interrupted", 8)
    assert [line["epoch"] for line in lines(stopped.run)] == [1]
    ended = evaluated(tmp_path / "signalled")
    assert lines(straight.run) == lines(ended.run)
    assert same_weights(straight.run, ended.run)


def test_the_last_evaluation_comes_before_the_run_counts_as_finished(tmp_path: Path) -> None:
    watch = Stubborn(kill)
    with pytest.raises(Killed):
        evaluated(tmp_path, wish=Wish((2,), 50), watch=watch)
    assert train(request(tmp_path, tiny_recipe("kw")), Watch(), print).status == "finished"
    killed = request(tmp_path / "last", tiny_recipe("kw", epochs=2))
    with pytest.raises(Killed):
        train(killed, Stubborn(kill), print, evaluate=Wish((2,), 50))
    assert not killed.run.finished
    ended = train(killed, watch := Watch(), print, evaluate=Wish((2,), 50))
    assert (ended.status, [record.epoch for record in watch.evaluations], watch.steps) == ("finished", [2], [])


def test_a_finished_run_can_be_given_its_last_epoch_only(tmp_path: Path) -> None:
    straight = evaluated(tmp_path / "straight")
    evaluated(tmp_path / "later", wish=None)
    for expected in ([3], []):
        watch = Watch()
        ended = evaluated(tmp_path / "later", watch=watch)
        assert ended.status == "already-finished"
        assert [record.epoch for record in watch.evaluations] == expected
        assert "epochs 1, 2: over" in watch.notes[0]
    assert lines(ended.run) == lines(straight.run)[2:]


def test_a_stopped_run_can_be_given_what_is_left(tmp_path: Path) -> None:
    straight = evaluated(tmp_path / "straight")
    asked = request(tmp_path / "later", tiny_recipe("kw"))
    train(asked, Watch(), print, max_steps=8)
    assert train(asked, Watch(), print, max_steps=0, evaluate=Wish((2,), 50)).status == "stopped"
    assert lines(asked.run) == lines(straight.run)[1:2]
    train(asked, Watch(), print, max_steps=1)
    watch = Watch()
    ended = train(asked, watch, watch.note, evaluate=ALL)
    assert lines(ended.run) == lines(straight.run)[1:]
    assert any("epoch 1: over" in note for note in watch.notes)


def test_other_points_are_another_line_and_fresh_starts_anew(tmp_path: Path) -> None:
    evaluated(tmp_path)
    ended = evaluated(tmp_path, wish=Wish((3,), 60))
    assert [(line["epoch"], line["points"]) for line in lines(ended.run)] == [(1, 50), (2, 50), (3, 50), (3, 60)]
    again = train(request(tmp_path, tiny_recipe("kw")), Watch(), print, fresh=True, evaluate=Wish((1,), 50))
    assert [line["epoch"] for line in lines(again.run)] == [1]
    assert len((ended.run.path / "previous" / "evaluations.jsonl").read_text().splitlines()) == 4


def test_lines_of_a_lost_state_are_dropped(tmp_path: Path) -> None:
    straight = evaluated(tmp_path / "straight")
    asked = request(tmp_path / "lost", tiny_recipe("kw"))
    train(asked, Watch(), print, max_steps=4, evaluate=ALL)
    early = asked.run.resume.read_bytes()
    train(asked, Watch(), print, max_steps=4, evaluate=ALL)
    asked.run.resume.write_bytes(early)
    with asked.run.evaluations.open("a") as file:
        file.write('{"epoch": 2, "mod')
    watch = Watch()
    ended = train(asked, watch, watch.note, evaluate=ALL)
    assert [record.epoch for record in watch.evaluations] == [2, 3]
    assert lines(ended.run) == lines(straight.run)
