"""The resume state: everything a stopped training needs to go on exactly where it was.

One safetensors file. Its tensors are the network's (`network.<name>`), those of its moving average where there is one
(`average.<name>`) and the optimiser's (`optimiser.<weight>.<key>`); its header holds a JSON object with the place in
the training, the running sums of the epoch under way and what the run was started with. Random numbers need no state:
each derives from (seed, epoch, step), see `randomness`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustcli.errors import CheckpointError
from robustcli.files import write_bytes
from robustcli.networks.network import Network

FORMAT = "robustcli.resume/1"


@dataclass
class Sums:
    """Running sums over the epoch under way. Python floats survive JSON without change."""

    points: int = 0
    loss: float = 0.0
    errors: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, points: int, loss: float, errors: int, parts: dict[str, float]) -> None:
        """Count one batch; losses and parts are means over its points."""
        self.points += points
        self.loss += loss * points
        self.errors += errors
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value * points


@dataclass
class Place:
    """Where a training stands: `step` optimiser steps of `epoch` are done."""

    epoch: int = 1
    step: int = 0
    sums: Sums = field(default_factory=Sums)


@dataclass(frozen=True)
class Origin:
    """What a run was started with, the machine included.

    Recipe, data and seed must stay; threads, device and processes may change at the price of the last digits.
    """

    recipe_hash: str
    data_hash: str
    seed: int
    threads: int
    device: str
    processes: int = 1


def save(
    path: Path,
    network: Network,
    average: Network | None,
    optimiser: torch.optim.Optimizer,
    place: Place,
    origin: Origin,
) -> None:
    """Write the state in one step.

    Raises:
        UsageError: when the folder cannot be written or the disk is full.
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for weight, entries in optimiser.state_dict()["state"].items():
        held = {key: torch.as_tensor(value) for key, value in entries.items() if value is not None}
        tensors |= {f"optimiser.{weight}.{key}": value for key, value in held.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = {"format": FORMAT, "place": asdict(place), "origin": asdict(origin), "digest": _digest(tensors)}
    write_bytes(path, save_tensors(tensors, {"state": json.dumps(content)}))


@dataclass(frozen=True)
class State:
    """A state read back."""

    place: Place
    origin: Origin
    tensors: dict[str, Tensor]

    def restore(self, network: Network, average: Network | None, optimiser: torch.optim.Optimizer) -> None:
        """Put weights, their average and optimiser state back, on the devices they belong to.

        Raises:
            CheckpointError: when the state is of another network or optimiser.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in self.tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = value
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get("optimiser", {}).items():
            weight, _, key = name.partition(".")
            entries.setdefault(int(weight), {})[key] = value
        try:
            network.load_state_dict(parts.get("network", {}))
            if average is not None:
                average.load_state_dict(parts.get("average", {}))
            optimiser.load_state_dict({**optimiser.state_dict(), "state": entries})
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the resume state is of another network or optimiser: {error}", "start anew with --fresh"
            ) from error


def load(path: Path) -> State:
    """Read a state.

    Raises:
        CheckpointError: when the file is truncated, altered or not a resume state.
    """
    hint = "start anew with --fresh"
    try:
        with safe_open(path, framework="pt") as file:
            content: dict[str, Any] = json.loads((file.metadata() or {}).get("state", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint) from error
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a resume state of this version", hint)
    if content.get("digest") != _digest(tensors):
        raise CheckpointError(f"{path} is damaged: its tensors are not the ones that were written", hint)
    try:
        place = Place(**(content["place"] | {"sums": Sums(**content["place"]["sums"])}))
        return State(place, Origin(**content["origin"]), tensors)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a resume state of this version: {error}", hint) from error


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
