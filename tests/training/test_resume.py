"""A training killed anywhere goes on to the same bits; what does not belong together is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcli.data.datasets import Split
from robustcli.errors import CheckpointError, DataError, RecipeError, UsageError
from robustcli.networks.checkpoints import load
from robustcli.results.runs import RunFolder
from robustcli.training import loop, runs, stages, state
from robustcli.training.interruption import alone_in
from robustcli.training.runs import Outcome, train
from tests.training.tiny import METHODS, Killed, Watch, few_rows, request, tiny_recipe


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)


def whole(root: Path, method: str = "plain", **training: Any) -> Outcome:
    watch = Watch()
    return train(request(root, tiny_recipe(method, **training)), watch, watch.note)


def result(run: RunFolder) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and metrics (without seconds) of a finished run."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return load(run.weights).network.state_dict(), lines


def assert_same(first: RunFolder, second: RunFolder) -> None:
    weights, lines = result(first)
    others, other_lines = result(second)
    assert lines == other_lines
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert weights.keys() == others.keys()


@pytest.mark.parametrize("method", METHODS)
def test_killed_twice_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    straight = whole(tmp_path / "straight", method)
    assert straight.steps == 12
    asked = request(tmp_path / "killed", tiny_recipe(method))
    for kill_at in (3, 9):
        with pytest.raises(Killed):
            train(asked, Watch(kill_at=kill_at), print)
    watch = Watch()
    ended = train(asked, watch, watch.note)
    # The step whose state was not yet written is done again.
    assert watch.steps == list(range(9, 13))
    assert watch.notes == ["going on at epoch 3, step 1"]
    assert_same(straight.run, ended.run)
    assert not ended.run.resume.exists()


@pytest.mark.parametrize("kill_at", range(1, 13))
def test_killed_at_any_step_equals_uninterrupted(tmp_path: Path, kill_at: int) -> None:
    straight = whole(tmp_path / "straight", optimiser={"name": "sgd", "lr": 0.05})
    asked = request(tmp_path / "killed", tiny_recipe(optimiser={"name": "sgd", "lr": 0.05}))
    with pytest.raises(Killed):
        train(asked, Watch(kill_at=kill_at), print)
    ended = train(asked, Watch(), print)
    assert_same(straight.run, ended.run)


def test_killed_between_metrics_and_state_writes_each_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = whole(tmp_path / "straight")
    asked = request(tmp_path / "killed")
    save = state.save

    def die(path: Path, network: Any, average: Any, optimiser: Any, place: state.Place, origin: Any) -> None:
        if place.epoch == 3:
            raise Killed
        save(path, network, average, optimiser, place, origin)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save", die)
        with pytest.raises(Killed):
            train(asked, Watch(), print)
    assert len(asked.run.metrics.read_text().splitlines()) == 2
    with asked.run.metrics.open("a") as file:
        file.write('{"epoch": 3, "los')
    ended = train(asked, Watch(), print)
    assert_same(straight.run, ended.run)


def test_max_steps_stops_with_a_state_and_goes_on(tmp_path: Path) -> None:
    straight = whole(tmp_path / "straight")
    asked = request(tmp_path / "parts")
    done = []
    for _ in range(3):
        ended = train(asked, Watch(), print, max_steps=5)
        done.append((ended.status, ended.steps))
        assert asked.run.finished == (ended.status == "finished")
    assert done == [("stopped", 5), ("stopped", 10), ("finished", 12)]
    assert_same(straight.run, asked.run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_after_the_step(tmp_path: Path, number: signal.Signals) -> None:
    straight = whole(tmp_path / "straight")
    asked = request(tmp_path / "signalled")
    watch = Watch()
    plain_step = watch.step

    def step(done: int, total: int, place: state.Place) -> None:
        plain_step(done, total, place)
        if done == 6:
            os.kill(os.getpid(), number)

    watch.step = step  # type: ignore[method-assign]
    before = signal.getsignal(number)
    ended = train(asked, watch, watch.note)
    assert (ended.status, ended.steps) == ("interrupted", 6)
    assert signal.getsignal(number) is before
    assert_same(straight.run, train(asked, Watch(), print).run)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = whole(tmp_path)
    written = first.run.weights.stat().st_mtime_ns
    watch = Watch()
    again = train(request(tmp_path), watch, watch.note)
    assert again.status == "already-finished"
    assert (watch.steps, again.figures, again.steps) == ([], first.figures, 12)
    assert first.run.weights.stat().st_mtime_ns == written


def test_fresh_starts_anew_and_keeps_one_older_training(tmp_path: Path) -> None:
    first = whole(tmp_path)
    weights = load(first.run.weights).network.weights_hash()
    watch = Watch()
    again = train(request(tmp_path), watch, watch.note, fresh=True)
    assert again.status == "finished"
    assert len(watch.steps) == 12
    assert load(first.run.path / "previous" / "weights.safetensors").network.weights_hash() == weights
    assert load(again.run.weights).network.weights_hash() == weights


def test_a_changed_recipe_is_refused_naming_every_key(tmp_path: Path) -> None:
    train(request(tmp_path), Watch(), print, max_steps=2)
    changed = tiny_recipe(epochs=7, optimiser={"name": "adam", "lr": 0.01})
    with pytest.raises(RecipeError) as caught:
        train(request(tmp_path, changed), Watch(), print)
    assert "training.epochs: 3 -> 7" in caught.value.message
    assert "training.optimiser.lr: 0.001 -> 0.01" in caught.value.message
    assert "batch_size" not in caught.value.message
    assert "--fresh" in (caught.value.hint or "")
    assert train(request(tmp_path, changed), Watch(), print, fresh=True).epochs_done == 7


def test_words_about_a_recipe_may_change(tmp_path: Path) -> None:
    train(request(tmp_path), Watch(), print, max_steps=2)
    reworded = tiny_recipe().model_copy(update={"summary": "other words", "norm": "l2"})
    assert train(request(tmp_path, reworded), Watch(), print).status == "finished"


def test_changed_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(request(tmp_path), Watch(), print, max_steps=2)
    monkeypatch.setattr(Split, "hash", "other")
    with pytest.raises(DataError, match="not those this run was started with"):
        train(request(tmp_path), Watch(), print)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other", "foreign"])
def test_a_damaged_state_is_a_clear_error(tmp_path: Path, damage: str) -> None:
    asked = request(tmp_path)
    train(asked, Watch(), print, max_steps=2)
    content = bytearray(asked.run.resume.read_bytes())
    if damage == "flipped":
        content[-10] ^= 64
    broken = {
        "truncated": bytes(content[: len(content) // 2]),
        "empty": b"",
        "flipped": bytes(content),
        "other": b"\x80\x04not a state",
        "foreign": None,
    }[damage]
    if broken is None:
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(2)}, asked.run.resume)
    else:
        asked.run.resume.write_bytes(broken)
    with pytest.raises(CheckpointError) as caught:
        train(asked, Watch(), print)
    assert "resume.safetensors" in caught.value.message
    assert "--fresh" in (caught.value.hint or "")
    assert train(asked, Watch(), print, fresh=True).status == "finished"


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    asked = request(tmp_path)
    with alone_in(asked.run.path), pytest.raises(UsageError, match="another `robust train`"):
        train(asked, Watch(), print)
    assert train(asked, Watch(), print).status == "finished"


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = whole(tmp_path / "straight")
    asked = request(tmp_path / "full")
    train(asked, Watch(), print, max_steps=5)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UsageError, match="No space left"):
            train(asked, Watch(), print)
    assert_same(straight.run, train(asked, Watch(), print).run)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UsageError, match="cannot write"):
        train(request(tmp_path / "runs"), Watch(), print)


def test_divergence_names_the_step_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    wild = tiny_recipe(optimiser={"name": "sgd", "lr": 1e30})
    asked = request(tmp_path, wild)
    with pytest.raises(RecipeError, match=r"diverged.*epoch 1, step [23]"):
        train(asked, Watch(), print)
    assert not asked.run.finished
    assert not asked.run.resume.exists()
    train(request(tmp_path / "b"), Watch(), print, max_steps=5)
    good = request(tmp_path / "b").run.resume.read_bytes()
    real = stages.learning_rate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "learning_rate", lambda training, epoch: 1e35 * real(training, epoch))
        with pytest.raises(RecipeError, match="last good state is kept"):
            train(request(tmp_path / "b"), Watch(), print)
    assert request(tmp_path / "b").run.resume.read_bytes() == good


def test_the_checkpoint_says_where_it_comes_from(tmp_path: Path) -> None:
    ended = whole(tmp_path)
    metadata = load(ended.run.weights).metadata
    recipe = tiny_recipe()
    assert (metadata.recipe, metadata.recipe_hash, metadata.dataset) == (recipe.name, recipe.hash, "digits")
    assert (metadata.seed, metadata.epoch, metadata.epochs) == (0, 3, 3)
    assert metadata.data_hash
    assert metadata.figures == ended.figures
    assert ended.run.recipe() == recipe
    assert runs.last_epoch(ended.run) == ended.last
    assert ended.last is not None
    assert ended.figures["test_error"] == ended.last.test_error


def test_seeds_differ_and_name_their_folder(tmp_path: Path) -> None:
    first, second = (
        train(runs.Request(tiny_recipe(), (), seed, tmp_path, "cpu", 1), Watch(), print) for seed in (0, 1)
    )
    assert [first.run.path.name, second.run.path.name] == ["seed-0", "seed-1"]
    assert load(first.run.weights).network.weights_hash() != load(second.run.weights).network.weights_hash()
