"""Batches: every point once an epoch, in an order of the epoch's own; the plan writes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustcli.devices import choose
from robustcli.errors import DataError, RecipeError, UsageError
from robustcli.results.schema import EpochRecord
from robustcli.training.loop import error
from robustcli.training.plan import plan
from robustcli.training.repeatable import repeatable
from robustcli.training.runs import prepare, train
from tests.training.tiny import Watch, few_rows, request, tiny_recipe


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "steps"),
    [(32, True, 4), (32, False, 5), (140, True, 1), (1000, True, 1), (35, False, 4)],
)
def test_steps_per_epoch(tmp_path: Path, batch_size: int, drop_last: bool, steps: int) -> None:
    trainer = prepare(request(tmp_path, tiny_recipe(batch_size=batch_size, drop_last=drop_last)))
    assert trainer.steps_per_epoch == steps


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "alone"), [(139, False, True), (139, True, False), (1, True, True)]
)
def test_a_single_point_has_no_batch_statistics(tmp_path: Path, batch_size: int, drop_last: bool, alone: bool) -> None:
    asked = request(tmp_path, tiny_recipe("ibp", batch_size=batch_size, drop_last=drop_last, batch_norm=True))
    if alone:
        with pytest.raises(RecipeError, match="batch_norm: 140 rows in batches of"):
            prepare(asked)
    else:
        assert prepare(asked).steps_per_epoch == 1


def test_one_class_is_nothing_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=np.zeros((4, 6), np.float32), labels=np.zeros(4, np.int64))
    recipe = tiny_recipe(augmentation="none").model_copy(update={"dataset": f"npz:{tmp_path}"})
    with pytest.raises(DataError, match="has one class"):
        prepare(request(tmp_path / "runs", recipe))


def test_an_epoch_meets_every_point_once_and_each_epoch_has_its_order(tmp_path: Path) -> None:
    trainer = prepare(request(tmp_path))
    orders = [trainer.order(epoch) for epoch in (1, 2, 1)]
    assert orders[0].sort().values.tolist() == list(range(140))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


def test_the_last_partial_batch_counts(tmp_path: Path) -> None:
    watch = Watch()
    train(request(tmp_path, tiny_recipe(epochs=1, drop_last=False, augmentation="none")), watch, watch.note)
    assert len(watch.steps) == 5
    assert watch.records[0].train_error * 140 == pytest.approx(round(watch.records[0].train_error * 140))


def test_learning_goes_somewhere(tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=30, augmentation="none", optimiser={"name": "adam", "lr": 0.01})
    watch = Watch()
    ended = train(request(tmp_path, recipe), watch, watch.note)
    assert watch.records[-1].train_error < 0.02
    assert watch.records[-1].loss < watch.records[0].loss / 4
    assert [record.learning_rate for record in watch.records[25:]] == pytest.approx([0.01] + [0.001] * 4)
    assert [record.steps for record in watch.records[:2]] == [4, 8]
    for line in ended.run.metrics.read_text().splitlines():
        EpochRecord.model_validate_json(line)


def test_test_error_is_the_share_of_wrong_answers(tmp_path: Path) -> None:
    trainer = prepare(request(tmp_path))
    trainer.network.train()
    points, labels = trainer.test.points(slice(None), torch.float32), trainer.test.labels_tensor(slice(None))
    wrong = (trainer.network(points).argmax(1) != labels).float().mean().item()
    assert error(trainer.network, trainer.test) == pytest.approx(wrong)
    assert trainer.network.training


def test_the_plan_writes_nothing_and_counts_what_is_left(tmp_path: Path) -> None:
    first = plan(request(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert (first.status, first.steps_left, first.train_rows) == ("starts", 12, 140)
    assert first.seconds > 0
    assert first.parameters == 64 * 12 + 12 + 12 * 10 + 10
    train(request(tmp_path), Watch(), print, max_steps=5)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = plan(request(tmp_path))
    assert (second.status, second.epoch, second.step, second.steps_left) == ("goes on", 2, 1, 7)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    train(request(tmp_path), Watch(), print)
    assert (plan(request(tmp_path)).status, plan(request(tmp_path)).steps_left) == ("finished", 0)
    assert plan(request(tmp_path), fresh=True).status == "starts"


def test_normalisation_is_a_layer(tmp_path: Path) -> None:
    recipe = tiny_recipe().model_copy(update={"normalise": "dataset"})
    layers = prepare(request(tmp_path, recipe)).network.describe()["layers"]
    assert layers[0]["type"] == "normalise"


def test_devices_and_settings_of_torch() -> None:
    assert choose("cpu").type == "cpu"
    with pytest.raises(UsageError, match="unknown device"):
        choose("tpu")
    if not torch.cuda.is_available():
        assert choose("auto").type == "cpu"
        with pytest.raises(UsageError, match="no CUDA"):
            choose("cuda")
    before = torch.get_num_threads()
    with repeatable(torch.device("cpu"), 2):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before


def gradient_step(root: Path, clip: float | None) -> torch.Tensor:
    """The change of all weights in one step of plain gradient descent with rate 1."""
    still = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
    trainer = prepare(request(root, tiny_recipe(optimiser=still, schedule={"name": "constant"}, clip_norm=clip)))
    before = torch.cat([weight.detach().flatten().clone() for weight in trainer.network.parameters()])
    trainer.step(trainer.order(1))
    return torch.cat([weight.detach().flatten() for weight in trainer.network.parameters()]) - before


def test_clipping_shortens_the_whole_gradient_to_the_norm(tmp_path: Path) -> None:
    free = gradient_step(tmp_path, None)
    length = float(free.norm())
    for clip in (0.5 * length, 1e-3):
        clipped = gradient_step(tmp_path, clip)
        assert float(clipped.norm()) == pytest.approx(clip, rel=1e-3)
        assert torch.allclose(clipped / clip, free / length, atol=1e-3)
    assert torch.equal(gradient_step(tmp_path, 2 * length), free)
