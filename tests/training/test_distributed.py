"""Several processes make the steps of one; they stop, go on and fail together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustcli.errors import RecipeError
from robustcli.networks.checkpoints import load
from robustcli.networks.layers import BatchNorm, Linear, ReLU
from robustcli.networks.network import Network
from robustcli.recipes.loading import dump
from robustcli.training.distributed import ALONE, Group
from robustcli.training.evaluation import Wish
from robustcli.training.runs import train
from tests.training.pair import ODD, SCENARIOS, SGD, free_ports
from tests.training.tiny import METHODS, Watch, few_rows, request, tiny_recipe

ROOT = Path(__file__).parents[2]
ATTACKED = (
    "at",
    "mmr+at",
    "mtl-ibp",
    "sabr",
    "relu-stability",
)  # from random starts, which each process draws for its rows
DETERMINISTIC = [method for method in METHODS if method not in (*ATTACKED, "ibp+stability")]
"""Methods that draw no random numbers of their own and whose loss is a mean over points."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)


Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """All scenarios of `pair.py`: the folder of their runs, and what the first and the second process saw."""
    root = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        few_rows(patch)
        train(request(root / "goes_on", tiny_recipe(**ODD)), Watch(), print, max_steps=6)
    environment = os.environ | {"PORTS": ",".join(map(str, free_ports(3))), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.training.pair", str(root)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return root, [json.loads((root / f"{rank}.json").read_text()) for rank in range(2)]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the only run below a folder."""
    (path,) = folder.glob("*/seed-0/weights.safetensors")
    return load(path).network.state_dict()


def assert_close(folder: Path, other: Path) -> None:
    ours, theirs = weights_in(folder), weights_in(other)
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_two_processes_make_the_steps_of_one(pair: tuple[Path, Seen], tmp_path: Path, method: str) -> None:
    root, (first, second) = pair
    watch = Watch()
    recipe = tiny_recipe(method, **ODD)
    alone = train(request(tmp_path, recipe), watch, print, evaluate=Wish((1, 3), 50))
    assert_close(tmp_path, root / "methods" / method)
    assert first["methods"][method] == second["methods"][method]
    (metrics,) = (root / "methods" / method).glob("*/seed-0/metrics.jsonl")
    for line, record in zip(metrics.read_text().splitlines(), watch.records, strict=True):
        ours, theirs = json.loads(line), record.model_dump()
        assert (ours["train_error"], ours["test_error"]) == (theirs["train_error"], theirs["test_error"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["parts"] == pytest.approx(theirs["parts"], rel=1e-5)
    (found,) = (root / "methods" / method).glob("*/seed-0/evaluations.jsonl")
    kept = {"epoch", "points", "error", "upper", "eps"}
    rows = [[json.loads(x) for x in path.read_text().splitlines()] for path in (found, alone.run.evaluations)]
    assert [{key: row[key] for key in kept} for row in rows[0]] == [{key: row[key] for key in kept} for row in rows[1]]


def test_a_process_without_a_point_waits_for_the_others(pair: tuple[Path, Seen], tmp_path: Path) -> None:
    train(request(tmp_path, tiny_recipe(batch_size=139, drop_last=False, optimiser=SGD)), Watch(), print)
    assert_close(tmp_path, pair[0] / "one_point_left")


def test_starts_of_attacks_differ_between_processes_and_repeat(pair: tuple[Path, Seen], tmp_path: Path) -> None:
    first, second = pair[1][0]["repeated"]
    assert first["weights"] == second["weights"]
    train(request(tmp_path, tiny_recipe("at")), Watch(), print)
    alone = weights_in(tmp_path)
    assert any(not torch.allclose(alone[name], value) for name, value in weights_in(pair[0] / "repeated/0").items())


def test_a_stopped_training_goes_on_to_the_same_bits(pair: tuple[Path, Seen]) -> None:
    for seen in pair[1]:
        parts = seen["resumed"]["parts"]
        assert [(part["status"], part["steps"]) for part in parts] == [
            ("stopped", 5),
            ("stopped", 10),
            ("finished", 12),
        ]
        assert parts[-1]["weights"] == seen["resumed"]["straight"]["weights"]


def test_the_number_of_processes_may_change_and_is_noted(pair: tuple[Path, Seen], tmp_path: Path) -> None:
    root, (first, _) = pair
    assert first["goes_on"]["status"] == "finished"
    assert any("2 processes instead of 1" in note for note in first["goes_on"]["notes"])
    train(request(tmp_path, tiny_recipe(**ODD)), Watch(), print)
    assert_close(tmp_path, root / "goes_on")
    assert first["stopped_short"]["status"] == "stopped"
    watch = Watch()
    train(request(root / "stopped_short", tiny_recipe(**ODD)), watch, watch.note)
    assert any("1 processes instead of 2" in note for note in watch.notes)
    assert_close(tmp_path, root / "stopped_short")


def test_a_signal_to_one_process_stops_both_after_the_same_step(pair: tuple[Path, Seen], tmp_path: Path) -> None:
    for seen in pair[1]:
        stopped, ended = seen["signal_in_the_second"]
        assert (stopped["status"], stopped["steps"], ended["status"]) == ("interrupted", 6, "finished")
    train(request(tmp_path), Watch(), print)
    assert_close(tmp_path, pair[0] / "signal_in_the_second")


def test_errors_are_said_once_and_end_both(pair: tuple[Path, Seen]) -> None:
    for rank, name in enumerate(("RecipeError", "StoppedElsewhere")):
        begun, refused = pair[1][rank]["refused"]
        assert begun["status"] == "stopped"
        assert (refused["error"], refused["code"]) == (name, 2)
        assert "training.epochs: 3 -> 7" in refused["message"]
        diverged = pair[1][rank]["diverging"]
        assert diverged["error"] == "RecipeError"
        assert "diverged" in diverged["message"]


def test_a_finished_run_is_evaluated_by_both(pair: tuple[Path, Seen]) -> None:
    assert [ended["status"] for ended in pair[1][0]["finished"]] == ["finished", "already-finished"]
    (found,) = (pair[0] / "finished").glob("*/seed-0/evaluations.jsonl")
    assert [json.loads(line)["points"] for line in found.read_text().splitlines()] == [20, 30]


@pytest.mark.parametrize("accident", ["hang", "death"])
def test_the_others_do_not_wait_for_ever(pair: tuple[Path, Seen], accident: str) -> None:
    ended = pair[1][0][accident]
    assert ended["error"] == "RobustError"
    assert "another process of this training" in ended["message"]
    assert ended["seconds"] < 30
    assert "death" not in pair[1][1]


def test_every_scenario_was_run(pair: tuple[Path, Seen]) -> None:
    assert {*SCENARIOS, "hang", "death"} == pair[1][0].keys()


class Member(Group):
    """A process of a group without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("count", "size"), [(1, 1), (128, 1), (128, 2), (33, 4), (3, 4), (1, 3)])
def test_shares_make_up_the_batch(count: int, size: int) -> None:
    shares = [Member(rank, size).share(count) for rank in range(size)]
    positions = sorted(position for share in shares if share.weight for position in range(count)[share.index])
    assert positions == list(range(count))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(len(range(count)[share.index]) > 0 for share in shares)
    assert {Member(rank, size).seeding for rank in range(size)} == (
        {()} if size == 1 else {("process", rank) for rank in range(size)}
    )


def test_the_first_half_of_a_share_lies_in_the_first_half_of_the_batch() -> None:
    for rank in range(2):
        own = list(range(128)[Member(rank, 2).share(128).index])
        assert max(own[: len(own) // 2]) < 64


class Twice(Group):
    """Two processes that always say the same."""

    rank, size = 0, 2

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def test_gradients_are_averaged_and_absent_ones_stay_absent() -> None:
    weights = [nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(5))]
    weights[0].grad, weights[2].grad = torch.ones(2, 3), torch.full((5,), 3.0)
    Twice().average_gradients(weights, 0.5)
    assert torch.equal(weights[0].grad, torch.ones(2, 3))
    assert weights[1].grad is None
    assert torch.equal(weights[2].grad, torch.full((5,), 3.0))


def test_batch_normalisation_is_refused_in_company() -> None:
    network = Network([Linear(3, 4), BatchNorm((4,)), ReLU(), Linear(4, 2)], (3,), "bn")
    ALONE.check(network)
    with pytest.raises(RecipeError, match="share by share in 2 processes"):
        Twice().check(network)


@pytest.mark.long
def test_torchrun(tmp_path: Path) -> None:
    path = tmp_path / "tiny-plain.yaml"
    path.write_text(dump(tiny_recipe(epochs=1)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command += [str(free_ports(1)[0]), "-m", "robustcli", "train", "--recipe", str(path), "--runs", str(tmp_path)]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("1 epoch, test error") == 1
    assert ran.stderr.count("2 processes share every batch") == 1
    assert (tmp_path / "tiny-plain" / "seed-0" / "weights.safetensors").is_file()
