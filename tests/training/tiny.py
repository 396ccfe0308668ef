"""A training that takes milliseconds: 160 of the embedded digits, one small hidden layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustcli.data import datasets
from robustcli.recipes.model import Recipe
from robustcli.results.schema import EpochRecord, EvaluationRecord
from robustcli.training import runs
from robustcli.training.runs import Request
from robustcli.training.state import Place

METHODS: dict[str, dict[str, Any]] = {
    "plain": {"name": "plain"},
    "at": {"name": "at", "norms": ["l1", "linf"], "steps": 2},
    "kw": {"name": "kw", "norm": "linf", "boxed": True, "start_eps": 0.01, "ramp_epochs": 2},
    "mmr": {"name": "mmr", "norm": "l2", "lmbd": 0.5, "gamma": 0.4, "warmup_epochs": 2},
    "mmr+at": {
        "name": "mmr",
        "norm": "linf",
        "lmbd": 0.5,
        "gamma": 0.2,
        "adversarial": {"name": "at", "norms": ["linf"], "steps": 2},
    },
    "cross-lipschitz": {"name": "cross-lipschitz", "lmbd": 0.1},
    "mmr-universal": {
        "name": "mmr-universal",
        "lmbd_l1": 0.3,
        "lmbd_linf": 0.6,
        "gamma_l1": 0.5,
        "gamma_linf": 0.1,
    },
    "ibp": {
        "name": "ibp",
        "norms": ["l1", "l2", "linf"],
        "ramp": {"name": "smoothed", "start": 1, "epochs": 1},
        "kappa": {"start": 1.0, "end": 0.5},
        "l1": 1e-5,
    },
    "ibp+stability": {"name": "ibp", "norms": ["linf"], "ramp": {"epochs": 2}, "stability": 0.5},
    "crown-ibp": {"name": "crown-ibp", "norms": ["linf"], "ramp": {"epochs": 2}},
    "kw+tight": {
        "name": "kw",
        "norm": "linf",
        "start_eps": 0.01,
        "ramp_epochs": 2,
        "tightness": {"gap": 0.01, "distance": 0.5, "warmup_epochs": 2},
    },
    "crown-ibp+tight": {
        "name": "crown-ibp",
        "norms": ["linf"],
        "ramp": {"epochs": 2},
        "tightness": {"distance": 0.5, "warmup_epochs": 1},
    },
    "relu-stability": {
        "name": "relu-stability",
        "norm": "linf",
        "attack": {"name": "at", "norms": ["linf"], "steps": 2},
        "ramp": {"epochs": 2},
        "stability": 1e-3,
        "l1": 1e-5,
    },
    "mtl-ibp": {"name": "mtl-ibp", "norms": ["l2", "linf"], "alpha": 0.3, "union": "worst"},
    "sabr": {"name": "sabr", "norms": ["linf"], "ratio": 0.4, "attack": {"steps": 2, "step_size": 0.5}},
}


def tiny_recipe(method: str = "plain", **training: Any) -> Recipe:
    """A recipe of three epochs of four batches."""
    return Recipe(
        name=f"tiny-{method.replace('+', '-')}",
        summary="a test",
        origin="own",
        dataset="digits",
        partial=True,
        architecture="1x12",
        method=METHODS[method],
        eps={"l1": 0.6, "l2": 0.3, "linf": 0.1},
        norm="linf",
        training={"epochs": 3, "batch_size": 32, "augmentation": "crop-mirror-colour"} | training,
    )


def few_rows(monkeypatch: pytest.MonkeyPatch, rows: int = 140) -> None:
    """Make the training load only the first rows of each split."""

    def load(name: str, split: str, **options: Any) -> datasets.Split:
        whole = datasets.load(name, split, **options)
        return dataclasses.replace(whole, images=whole.images[:rows], labels=whole.labels[:rows])

    monkeypatch.setattr(runs, "load_split", load)


def request(root: Path, recipe: Recipe | None = None, **options: Any) -> Request:
    """A request on one CPU thread."""
    return Request(recipe or tiny_recipe(), options.pop("overrides", ()), 0, root, "cpu", 1, **options)


class Killed(BaseException):
    """Stands for kill -9: nothing in the program may catch it and tidy up."""


class Watch:
    """Collects what the loop tells; dies after `kill_at` steps, or in the middle of an epoch's end."""

    def __init__(self, kill_at: int | None = None, kill_after_epoch: int | None = None) -> None:
        self.kill_at, self.kill_after_epoch = kill_at, kill_after_epoch
        self.steps: list[int] = []
        self.records: list[EpochRecord] = []
        self.evaluations: list[EvaluationRecord] = []
        self.notes: list[str] = []

    def step(self, done: int, total: int, place: Place) -> None:
        self.steps.append(done)
        if done == self.kill_at:
            raise Killed

    def epoch(self, record: EpochRecord, epochs: int) -> None:
        self.records.append(record)
        if record.epoch == self.kill_after_epoch:
            raise Killed

    def evaluating(self, epoch: int, done: int, total: int) -> None: ...

    def evaluated(self, record: EvaluationRecord, epochs: int) -> None:
        self.evaluations.append(record)

    @property
    def note(self) -> Callable[[str], None]:
        return self.notes.append
