"""Training in stages: frozen layers keep their bits, a stopped training ends with those of one that was not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from robustcli.cli.training_progress import Display
from robustcli.networks.checkpoints import load
from robustcli.recipes.checks import disagreements
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder
from robustcli.training import loop, state
from robustcli.training import plan as planning
from robustcli.training.folder import put_away
from robustcli.training.runs import Outcome, train
from tests.training.test_resume import assert_same
from tests.training.tiny import Killed, Watch, few_rows, request, tiny_recipe


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)


def recipe(epochs: int = 6, architecture: str = "3x12", stages: int = 3, **more: Any) -> Recipe:
    """Three stages of two epochs of four batches."""
    method = {"name": "colt", "stages": stages, "mix_epochs": 1, "projections": 5, "attack": {"steps": 3}}
    return Recipe(
        name="tiny-colt",
        summary="a test",
        origin="own",
        dataset="digits",
        partial=True,
        architecture=architecture,
        method=method | more.pop("method", {}),
        eps={"linf": 0.1},
        norm="linf",
        training={"epochs": epochs, "batch_size": 32, "optimiser": {"name": "sgd", "lr": 0.05}} | more,
    )


def whole(root: Path, chosen: Recipe | None = None) -> Outcome:
    return train(request(root, chosen or recipe()), Watch(), print)


def weights(path: Path) -> dict[str, Tensor]:
    return load(path).network.state_dict()


@pytest.mark.parametrize("optimiser", [{"name": "sgd", "lr": 0.05}, {"name": "adam", "lr": 0.01, "weight_decay": 0.1}])
def test_frozen_layers_keep_their_bits(tmp_path: Path, optimiser: dict[str, Any]) -> None:
    run = whole(tmp_path, recipe(optimiser=optimiser)).run
    after = [weights(run.stage_weights(1)), weights(run.stage_weights(2)), weights(run.weights)]
    layers = [0, 2, 4, 6] if "layers.0.weight" in after[0] else [1, 3, 5, 7]  # a flattening may stand first
    for stage, (before, behind) in enumerate([(after[0], after[1]), (after[1], after[2])], 1):
        for position, layer in enumerate(layers):
            for part in ("weight", "bias"):
                name = f"layers.{layer}.{part}"
                assert torch.equal(before[name], behind[name]) == (position < stage)
    assert not run.stage_weights(3).exists()
    assert [load(run.stage_weights(number)).metadata.epoch for number in (1, 2)] == [2, 4]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("kill_at", [3, 7, 8, 9, 13, 16, 17, 20])
def test_killed_inside_any_stage_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int, optimiser: str
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    chosen = recipe(optimiser={"name": optimiser, "lr": 0.05})
    straight = whole(tmp_path / "straight", chosen)
    assert straight.steps == 24
    asked = request(tmp_path / "killed", chosen)
    with pytest.raises(Killed):
        train(asked, Watch(kill_at=kill_at), print)
    ended = train(asked, Watch(), print)
    assert_same(straight.run, ended.run)
    for number in (1, 2):
        first, second = (weights(run.stage_weights(number)) for run in (straight.run, ended.run))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_stage_starts_with_a_fresh_optimiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the second stage is the same whatever the momentum of the first one was."""
    chosen = recipe()
    straight = whole(tmp_path / "straight", chosen)
    forgetful = request(tmp_path / "forgetful", chosen)
    train(forgetful, Watch(), print, max_steps=8)

    saved = state.load(forgetful.run.resume)
    assert saved.place.epoch == 3
    assert not [name for name in saved.tensors if name.startswith("optimiser.")]
    assert_same(straight.run, train(forgetful, Watch(), print).run)


def test_a_fresh_start_puts_the_stages_away(tmp_path: Path) -> None:
    run: RunFolder = whole(tmp_path).run
    kept = put_away(run)
    assert kept is not None
    assert sorted(path.name for path in kept.glob("stage-*")) == ["stage-1.safetensors", "stage-2.safetensors"]
    assert not list(run.path.glob("stage-*"))


def test_lines_tell_the_stage(tmp_path: Path) -> None:
    watch = Watch()
    train(request(tmp_path, recipe()), watch, print)
    assert [record.parts["stage"] for record in watch.records] == [1, 1, 2, 2, 3, 3]
    assert [record.parts["kappa"] for record in watch.records] == pytest.approx([0.375, 1] * 3)


def test_the_bar_tells_the_stage() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(console, 6, False, stages=3) as display:
        for epoch, stage in zip(range(1, 7), [1, 1, 2, 2, 3, 3], strict=True):
            display.step(epoch, 6, state.Place(epoch))
            assert display.bar.tasks[0].description == f"stage {stage}/3 epoch {epoch}/6"
    assert recipe().stages == 3
    assert tiny_recipe().stages == 1


@pytest.mark.parametrize(
    ("chosen", "path", "words"),
    [
        (recipe(7), ("training", "epochs"), "7 cannot be shared equally by 3 stages"),
        (recipe(method={"mix_epochs": 3}), ("method", "mix_epochs"), "3 exceeds the 2 of a stage"),
        (recipe(8, stages=4, architecture="2x12"), ("method", "stages"), "4 for 2 hidden layers of 2x12"),
        (recipe(batch_norm=True), ("training", "batch_norm"), "stages freeze layers"),
        (recipe(averaging={}), ("training", "averaging"), "stages freeze layers"),
    ],
)
def test_stages_that_do_not_fit_are_named(chosen: Recipe, path: tuple[str, ...], words: str) -> None:
    (problem,) = disagreements(chosen)
    assert problem.path == path
    assert words in problem.text


def test_the_plan_counts_the_steps_of_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a time of its own: here stage j takes 10^j seconds a step."""
    monkeypatch.setattr(planning, "_second_step", lambda trainer: 10.0 ** trainer.stages.at(trainer.place.epoch))
    monkeypatch.setattr(planning, "_test", lambda trainer: 0.0)
    found = planning.plan(request(tmp_path, recipe()))
    assert (found.steps_left, found.seconds) == (24, 8 * 111)
    assert found.seconds_per_step == pytest.approx(37)
    train(request(tmp_path, recipe()), Watch(), print, max_steps=11)
    assert planning.plan(request(tmp_path, recipe())).seconds == 5 * 10 + 8 * 100
