"""Two processes that train together: `python -m tests.training.pair ROOT` forks once and writes what each saw.

One import for both, and all scenarios in one go, so that it takes seconds. Each scenario runs in both processes; its
words go to `ROOT/<rank>.json`, its runs to `ROOT/<scenario>/`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcli.errors import RobustError
from robustcli.networks.checkpoints import load
from robustcli.training import distributed
from robustcli.training.distributed import Group, joined
from robustcli.training.evaluation import Wish
from robustcli.training.runs import Request, train
from robustcli.training.state import Place
from tests.training.tiny import METHODS, Watch, few_rows, request, tiny_recipe

SGD: dict[str, Any] = {"name": "sgd", "lr": 0.05}
ODD = {"batch_size": 33, "drop_last": False, "optimiser": SGD}
"""Uneven shares, and a last batch of 8 points."""
SCENARIOS: dict[str, Callable[[Group, Path], Any]] = {}


def scenario(function: Callable[[Group, Path], Any]) -> Callable[[Group, Path], Any]:
    """List a scenario by its name."""
    SCENARIOS[function.__name__] = function
    return function


def outcome(group: Group, asked: Request, watch: Watch | None = None, **options: Any) -> dict[str, Any]:
    """How a training went in this process."""
    watch = watch or Watch()
    try:
        ended = train(asked, watch, watch.note, group=group, **options)
    except RobustError as error:
        return {"error": type(error).__name__, "code": error.exit_code, "message": error.message}
    weights = load(ended.run.weights).network.weights_hash() if ended.run.finished else None
    return {"status": ended.status, "steps": ended.steps, "notes": watch.notes, "weights": weights}


@scenario
def methods(group: Group, root: Path) -> Any:
    return {
        method: outcome(group, request(root / method, tiny_recipe(method, **ODD)), evaluate=Wish((1, 3), 50))
        for method in METHODS
    }


@scenario
def one_point_left(group: Group, root: Path) -> Any:
    return outcome(group, request(root, tiny_recipe(batch_size=139, drop_last=False, optimiser=SGD)))


@scenario
def repeated(group: Group, root: Path) -> Any:
    return [outcome(group, request(root / str(time), tiny_recipe("at"))) for time in range(2)]


@scenario
def resumed(group: Group, root: Path) -> Any:
    straight = outcome(group, request(root / "straight", tiny_recipe("at")))
    parts = [outcome(group, request(root / "parts", tiny_recipe("at")), max_steps=5) for _ in range(3)]
    return {"straight": straight, "parts": parts}


@scenario
def goes_on(group: Group, root: Path) -> Any:
    """What one process began (see the test)."""
    return outcome(group, request(root, tiny_recipe(**ODD)))


@scenario
def stopped_short(group: Group, root: Path) -> Any:
    """What one process goes on with (see the test)."""
    return outcome(group, request(root, tiny_recipe(**ODD)), max_steps=6)


class Signal(Watch):
    """Sends this process a signal after step 6."""

    def step(self, done: int, total: int, place: Place) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


@scenario
def signal_in_the_second(group: Group, root: Path) -> Any:
    first = outcome(group, request(root), Watch() if group.leads else Signal())
    return [first, outcome(group, request(root))]


@scenario
def refused(group: Group, root: Path) -> Any:
    begun = outcome(group, request(root), max_steps=2)
    return [begun, outcome(group, request(root, tiny_recipe(epochs=7)))]


@scenario
def diverging(group: Group, root: Path) -> Any:
    return outcome(group, request(root, tiny_recipe(optimiser={"name": "sgd", "lr": 1e30})))


@scenario
def finished(group: Group, root: Path) -> Any:
    return [outcome(group, request(root, tiny_recipe("kw")), evaluate=Wish((3,), points)) for points in (20, 30)]


class Hanging(Watch):
    """Hangs after step 2, until the other process has given up."""

    def __init__(self, given_up: Path) -> None:
        super().__init__()
        self.given_up = given_up

    def step(self, done: int, total: int, place: Place) -> None:
        deadline = time.monotonic() + 60
        while done == 2 and not self.given_up.exists() and time.monotonic() < deadline:
            time.sleep(0.02)


class Dying(Watch):
    """Ends as by kill -9 after step 2."""

    def step(self, done: int, total: int, place: Place) -> None:
        if done == 2:
            os._exit(9)


def accident(watch: Watch, root: Path, port: int, timeout: float) -> dict[str, Any]:
    """The second process has an accident in a group of its own; how the first one ends, and after how many seconds."""
    os.environ["MASTER_PORT"] = str(port)
    distributed.TIMEOUT = timeout
    with joined("cpu") as group:
        begun = time.monotonic()
        ended = outcome(group, request(root), Watch() if group.leads else watch)
    root.with_suffix(".over").touch()
    return ended | {"seconds": time.monotonic() - begun}


def main(root: Path) -> None:
    """Both processes."""
    with pytest.MonkeyPatch.context() as patch:
        few_rows(patch)
        torch.set_num_threads(1)
        ports = [int(port) for port in os.environ["PORTS"].split(",")]
        child = os.fork()
        rank = 0 if child else 1
        place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0]}
        os.environ.update({name: str(value) for name, value in place.items()})
        with joined("cpu") as group:
            seen = {name: run(group, root / name) for name, run in SCENARIOS.items()}
        seen["hang"] = accident(Hanging(root / "hang.over"), root / "hang", ports[1], timeout=2)
        (root / f"{rank}.json").write_text(json.dumps(seen))
        seen["death"] = accident(Dying(), root / "death", ports[2], timeout=60)
        (root / f"{rank}.json").write_text(json.dumps(seen))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


if __name__ == "__main__":
    main(Path(sys.argv[1]))
