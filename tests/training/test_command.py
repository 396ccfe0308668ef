"""`robust train` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from robustcli.cli.train import train
from robustcli.cli.training_progress import duration
from robustcli.errors import Interrupted, RecipeError, UnknownNameError, UsageError
from robustcli.networks.checkpoints import load
from robustcli.recipes.loading import dump
from robustcli.training import loop
from tests.training.tiny import few_rows, tiny_recipe

APP = typer.Typer()
APP.command()(train)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe file; runs go to the same folder."""
    few_rows(monkeypatch)
    monkeypatch.setenv("ROBUST_RUNS_DIR", str(tmp_path / "runs"))
    path = tmp_path / "tiny-plain.yaml"
    path.write_text(dump(tiny_recipe()))
    return path


def robust_train(*arguments: str | Path) -> Result:
    return CliRunner().invoke(APP, [*map(str, arguments), "--device", "cpu", "--threads", "1"])


def test_train_prints_the_test_error_and_where_the_weights_are(recipe: Path, tmp_path: Path) -> None:
    done = robust_train("--recipe", recipe)
    weights = tmp_path / "runs" / "tiny-plain" / "seed-0" / "weights.safetensors"
    assert done.exit_code == 0
    assert "3 epochs, test error" in done.stdout
    assert str(weights) in done.stdout
    assert "epoch 3/3" in done.stderr
    again = robust_train("--recipe", recipe)
    assert again.exit_code == 0
    assert again.stdout.startswith("already finished: 3 epochs")
    assert "--fresh" in again.stderr


def test_json_is_all_there_is_on_stdout(recipe: Path) -> None:
    stopped = robust_train("--recipe", recipe, "--json", "--max-steps", "5")
    document = json.loads(stopped.stdout)
    assert (document["status"], document["steps"], document["epochs_done"]) == ("stopped", 5, 1)
    assert document["weights"] is None
    document = json.loads(robust_train("--recipe", recipe, "--json").stdout)
    assert (document["schema"], document["status"], document["steps"]) == ("robustcli.train/1", "finished", 12)
    assert document["figures"]["test_error"] == document["last_epoch"]["test_error"]
    assert Path(document["weights"]).is_file()


def test_max_steps_says_how_to_go_on(recipe: Path) -> None:
    stopped = robust_train("--recipe", recipe, "--max-steps", "5")
    assert stopped.exit_code == 0
    assert stopped.stdout == ""
    assert "stopped after step 5 as asked; the same command goes on from here" in stopped.stderr
    assert "going on at epoch 2, step 2" in robust_train("--recipe", recipe).stderr


def test_quiet_prints_the_result_alone(recipe: Path) -> None:
    done = robust_train("--recipe", recipe, "-q")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("3 epochs, test error")


def test_overrides_get_their_own_folder(recipe: Path, tmp_path: Path) -> None:
    assert robust_train("--recipe", recipe, "--set", "training.epochs=1", "--seed", "4").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-plain+")
    assert json.loads((folder / "seed-4" / "overrides.json").read_text()) == ["training.epochs=1"]
    assert load(folder / "seed-4" / "weights.safetensors").metadata.epochs == 1


def test_dry_run_tells_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    told = robust_train("--recipe", recipe, "--dry-run")
    assert told.exit_code == 0
    for words in ("start a new run", "140 training and 140 test rows", "3 epochs of 4 batches; 12 steps left", "about"):
        assert words in told.stdout
    assert not (tmp_path / "runs").exists()
    planned = json.loads(robust_train("--recipe", recipe, "--dry-run", "--json").stdout)
    assert (planned["steps_left"], planned["parameters"]) == (12, 910)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("none", "none"),
        ("crop-mirror", "crop-mirror: padding 2"),
        ("affine", "affine: degrees 5, shear 0.1, contrast 1"),
    ],
)
def test_dry_run_tells_how_images_change(recipe: Path, change: str, words: str) -> None:
    told = robust_train("--recipe", recipe, "--dry-run", "--set", f"training.augmentation={change}").stdout
    assert f"augmentation {words}" in [line.removeprefix("images").strip() for line in told.splitlines()]


def test_several_seeds_are_runs_of_their_own_and_a_table(recipe: Path, tmp_path: Path) -> None:
    assert robust_train("--recipe", recipe, "--seed", "1").exit_code == 0
    done = robust_train("--recipe", recipe, "--seeds", "0-2")
    assert done.exit_code == 0
    assert "already finished" in done.stdout
    runs = tmp_path / "runs" / "tiny-plain"
    assert sorted(path.name for path in runs.iterdir()) == ["seed-0", "seed-1", "seed-2"]
    errors = [load(runs / f"seed-{seed}" / "weights.safetensors").metadata.figures["test_error"] for seed in range(3)]
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[-5:]}
    wanted = {str(seed): error for seed, error in enumerate(errors)}
    wanted |= {"mean": statistics.fmean(errors), "sd": statistics.stdev(errors)}
    assert rows == {name: f"{100 * value:.2f}" for name, value in wanted.items()}
    document = json.loads(robust_train("--recipe", recipe, "--seeds", "0,2", "--json").stdout)
    assert [(run["seed"], run["status"]) for run in document["runs"]] == [
        (0, "already-finished"),
        (2, "already-finished"),
    ]
    assert document["mean"]["test error"] == statistics.fmean([errors[0], errors[2]])
    assert document["sd"]["test error"] == statistics.stdev([errors[0], errors[2]])


def test_several_seeds_go_on_where_they_were_stopped(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = loop.Trainer.step, []

    def interrupt(trainer: loop.Trainer, order: torch.Tensor) -> None:
        step(trainer, order)
        seen.append(trainer.seed)
        if len(seen) == 18:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Trainer, "step", interrupt)
    stopped = robust_train("--recipe", recipe, "--seeds", "0-2")
    assert isinstance(stopped.exception, Interrupted)
    done = robust_train("--recipe", recipe, "--seeds", "0-2")
    assert "going on at epoch 2, step 3" in done.stderr
    assert seen == [0] * 12 + [1] * 12 + [2] * 12
    straight = robust_train("--recipe", recipe, "--seed", "1", "--runs", tmp_path / "straight")
    assert straight.exit_code == 0
    one, other = (
        load(root / "tiny-plain" / "seed-1" / "weights.safetensors").network.state_dict()
        for root in (tmp_path / "runs", tmp_path / "straight")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_plans_of_several_seeds_and_wrong_ones(recipe: Path) -> None:
    planned = json.loads(robust_train("--recipe", recipe, "--seeds", "3,5", "--dry-run", "--json").stdout)
    assert [(plan["seed"], plan["status"]) for plan in planned] == [(3, "starts"), (5, "starts")]
    for arguments, words in (
        (["--seeds", "4-1"], "no list of seeds"),
        (["--seeds", "0,x"], "no list of seeds"),
        (["--seeds", "0-1", "--seed", "3"], "different runs"),
        (["--seeds", "0-1", "--max-steps", "3"], "stops one run"),
    ):
        failed = robust_train("--recipe", recipe, *arguments).exception
        assert isinstance(failed, UsageError)
        assert words in failed.message


def test_errors_reach_the_caller_as_errors(recipe: Path) -> None:
    assert isinstance(robust_train("--recipe", "digits-fc-plian").exception, UnknownNameError)
    assert isinstance(robust_train("--recipe", recipe, "--set", "training.epoch=1").exception, RecipeError)
    assert robust_train().exit_code == 2


def test_evaluations_are_printed_stored_and_told(recipe: Path, tmp_path: Path) -> None:
    done = robust_train("--recipe", recipe, "--evaluate-at", "1,3", "--evaluate-points", "20")
    assert done.exit_code == 0
    told = [line for line in done.stderr.splitlines() if "KW bound" in line]
    assert [line.split("  ")[0] for line in told] == ["epoch 1", "epoch 3"]
    assert all(len(line) <= 80 and " union " in line for line in told)
    document = json.loads(robust_train("--recipe", recipe, "--evaluate", "--evaluate-points", "20", "--json").stdout)
    assert [record["epoch"] for record in document["evaluations"]] == [1, 3]
    assert set(document["evaluations"][0]["upper"]) == {"l1", "l2", "linf", "union"}


def test_the_plan_counts_the_evaluations(recipe: Path, tmp_path: Path) -> None:
    told = robust_train("--recipe", recipe, "--dry-run", "--evaluate", "--evaluate-points", "20")
    assert "evaluate    3 times, about" in told.stdout
    assert not (tmp_path / "runs").exists()
    robust_train("--recipe", recipe, "--evaluate-at", "1", "--evaluate-points", "20", "--max-steps", "4")
    planned = json.loads(
        robust_train("--recipe", recipe, "--dry-run", "--evaluate", "--evaluate-points", "20", "--json").stdout
    )
    assert planned["evaluations"] == 2
    assert planned["seconds_per_evaluation"] > 0


def test_a_wrong_wish_for_evaluation_says_what_is_wrong(recipe: Path) -> None:
    for arguments, words in (
        (["--evaluate-at", "4"], "no epoch 4 in 1 to 3"),
        (["--evaluate-at", "two"], "not a list of epochs"),
        (["--evaluate-points", "5"], "but not when"),
        (["--evaluate", "--evaluate-points", "141"], "beyond the 140 test points"),
    ):
        failed = robust_train("--recipe", recipe, *arguments).exception
        assert isinstance(failed, UsageError)
        assert words in failed.message


def test_an_interruption_is_an_error_that_says_how_to_go_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = loop.Trainer.step

    def interrupt(trainer: loop.Trainer, order: torch.Tensor) -> None:
        step(trainer, order)
        if trainer.steps_done == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Trainer, "step", interrupt)
    stopped = robust_train("--recipe", recipe)
    assert isinstance(stopped.exception, Interrupted)
    assert stopped.exception.exit_code == 130
    assert "stopped after step 6 (1 of 3 epochs done)" in str(stopped.exception)
    assert "goes on" in str(stopped.exception)


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.2, "4 s"), (89, "89 s"), (91, "2 min"), (7500, "2 h 05 min"), (5399, "1 h 30 min")]
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words


CHILD = """
import sys
from pathlib import Path
from robustcli.recipes.loading import load
from robustcli.training import loop
from robustcli.training.runs import Request, train
loop.SAVE_EVERY = 0.02
request = Request(load(sys.argv[1]), (), 0, Path(sys.argv[2]), "cpu", 1)
train(request, loop.Silent(), print)
"""


@pytest.mark.long
def test_kill_minus_nine_at_random_moments(tmp_path: Path) -> None:
    path = tmp_path / "tiny-mmr.yaml"
    path.write_text(dump(tiny_recipe("mmr", epochs=6, batch_size=16)))

    def start(root: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(tmp_path / root)])

    def tensors(root: str) -> dict[str, torch.Tensor]:
        return load(tmp_path / root / "tiny-mmr" / "seed-0" / "weights.safetensors").network.state_dict()

    assert start("straight").wait() == 0
    resume = tmp_path / "killed" / "tiny-mmr" / "seed-0" / "resume.safetensors"
    for kill in range(3):
        child = start("killed")
        before = resume.stat().st_mtime_ns if kill else 0
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (resume.exists() and resume.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(0.07 * kill)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0
    straight, killed = tensors("straight"), tensors("killed")
    assert all(torch.equal(straight[name], killed[name]) for name in straight)
