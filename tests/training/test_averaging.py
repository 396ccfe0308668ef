"""The moving average of the weights: its formula, what it must not touch, and that it is what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcli.errors import RecipeError
from robustcli.networks.checkpoints import load
from robustcli.networks.folding import folded, with_batch_norm
from robustcli.networks.layers import BatchNorm
from robustcli.networks.network import Network
from robustcli.recipes.loading import load as load_recipe
from robustcli.training import loop
from robustcli.training.averaging import Average
from robustcli.training.evaluation import Wish
from robustcli.training.held_out import certified_errors
from robustcli.training.loop import Silent, error
from robustcli.training.runs import prepare, train
from robustcli.training.state import Place
from tests.training.test_resume import assert_same
from tests.training.tiny import Killed, Watch, few_rows, request, tiny_recipe

HALF = {"decay": 0.5, "share": 0.5}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)


class Follow(Silent):
    """Calls `look` after every step."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def step(self, done: int, total: int, place: Place) -> None:
        self.look()


def history(root: Path, method: str = "plain", **training: Any) -> tuple[loop.Trainer, list[dict[str, torch.Tensor]]]:
    """A training to its end, and the weights after each of its 12 steps."""
    trainer, seen = prepare(request(root, tiny_recipe(method, **training))), []

    def look() -> None:
        seen.append({name: value.clone() for name, value in trainer.network.state_dict().items()})

    assert trainer.run(Follow(look)).why == "finished"
    return trainer, seen


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (0.5, 4), (0.67, 8), (0.99, 8)])
def test_it_is_the_weighted_sum_of_the_steps(tmp_path: Path, decay: float, share: float, first: int) -> None:
    """a_n = decay^n w_before + (1 - decay) sum_k decay^(n - k) w_k over the steps k of epochs e >= share E."""
    trainer, seen = history(tmp_path, averaging={"decay": decay, "share": share})
    start = prepare(request(tmp_path / "start", tiny_recipe())).network.state_dict()
    before = seen[first - 1] if first else start
    steps = seen[first:]
    for name, found in trainer.result.state_dict().items():
        expected = decay ** len(steps) * before[name].double()
        for back, weights in enumerate(reversed(steps)):
            expected = expected + (1 - decay) * decay**back * weights[name].double()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_until_it_begins_it_is_the_network(tmp_path: Path) -> None:
    trainer = prepare(request(tmp_path, tiny_recipe(averaging={"decay": 0.999, "share": 0.9})))
    trainer.run(Silent(), max_steps=5)
    assert trainer.result.weights_hash() == trainer.network.weights_hash()


def test_no_step_depends_on_it(tmp_path: Path) -> None:
    _, plain = history(tmp_path / "plain", "ibp", batch_norm=True)
    _, averaged = history(tmp_path / "averaged", "ibp", batch_norm=True, averaging=HALF)
    for one, other in zip(plain, averaged, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_is_evaluated_and_saved_with_its_statistics_folded(tmp_path: Path) -> None:
    recipe = tiny_recipe("ibp", batch_norm=True, averaging=HALF, held_out=20)
    ended = train(request(tmp_path / "whole", recipe), Silent(), print)
    trainer, _ = history(tmp_path / "by-hand", "ibp", batch_norm=True, averaging=HALF, held_out=20)
    assert load(ended.run.weights).network.weights_hash() == folded(trainer.result).weights_hash()
    assert folded(trainer.result).weights_hash() != folded(trainer.network).weights_hash()
    last = json.loads(ended.run.metrics.read_text().splitlines()[-1])
    assert last["test_error"] == error(trainer.result, trainer.test)
    eps = {str(norm): radius for norm, radius in recipe.eps.items()}
    assert last["certified_error"] == certified_errors(trainer.result, trainer.train, trainer.kept_out, eps)


def test_evaluations_are_of_the_average(tmp_path: Path) -> None:
    watch = Watch()
    asked = request(tmp_path / "evaluated", tiny_recipe(averaging=HALF))
    ended = train(asked, watch, watch.note, evaluate=Wish((2, 3), 20))
    trainer, seen = history(tmp_path / "by-hand", averaging=HALF)
    assert [record.epoch for record in watch.evaluations] == [2, 3]
    assert (
        watch.evaluations[-1].model == trainer.result.weights_hash() == load(ended.run.weights).network.weights_hash()
    )
    trainer.network.load_state_dict(seen[7])
    assert watch.evaluations[0].model != trainer.network.weights_hash()


def test_statistics_are_averaged_along() -> None:
    layers = [{"type": "linear", "in": 3, "out": 2}, {"type": "relu"}, {"type": "linear", "in": 2, "out": 2}]
    network = Network.from_description(with_batch_norm({"input_shape": [3], "layers": layers}))
    average = Average(network, decay=0.75, share=0.0, epochs=1)
    normalisation = next(layer for layer in network.layers if isinstance(layer, BatchNorm))
    normalisation.running_mean += 4.0
    normalisation.running_var += 8.0
    average.step(network, epoch=1)
    found = next(layer for layer in average.network.layers if isinstance(layer, BatchNorm))
    assert (found.running_mean.tolist(), found.running_var.tolist()) == ([1.0, 1.0], [3.0, 3.0])


@pytest.mark.parametrize("kill_at", [3, 6, 9, 12])
def test_killed_at_any_step_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    recipe = tiny_recipe("ibp", batch_norm=True, averaging=HALF)
    straight = train(request(tmp_path / "straight", recipe), Silent(), print)
    asked = request(tmp_path / "killed", recipe)
    with pytest.raises(Killed):
        train(asked, Watch(kill_at=kill_at), print)
    assert_same(straight.run, train(asked, Silent(), print).run)


@pytest.mark.parametrize(
    ("key", "value"), [("decay", "1"), ("decay", "-0.1"), ("share", "1"), ("share", "true"), ("rate", "0.5")]
)
def test_settings_that_are_none_are_refused(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=rf"averaging.{key}"):
        load_recipe("digits-fc-kw-linf", [f"training.averaging.{key}={value}"])
