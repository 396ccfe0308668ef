"""The loop around every method's objective: epochs, batches, learning rate, metrics, resume states.

What happens at step s of epoch e depends on the weights, the optimiser's state and (seed, e, s) alone. So a training
that was stopped between any two steps and goes on from its resume state ends, on the CPU, with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustcli.data.datasets import Split
from robustcli.errors import RecipeError
from robustcli.files import append_lines
from robustcli.networks.network import Network, margins
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder
from robustcli.results.schema import EpochRecord
from robustcli.training import state
from robustcli.training.augmentation import augmentation
from robustcli.training.objective import Moment, Objective
from robustcli.training.randomness import generator
from robustcli.training.schedules import learning_rate, optimiser
from robustcli.training.state import Origin, Place, Sums

SAVE_EVERY = 60.0
"""Seconds between two resume states inside an epoch."""
TEST_BATCH = 500


class Watcher(Protocol):
    """Told what happens; prints or draws it."""

    def step(self, done: int, total: int, place: Place) -> None:
        """`done` of `total` optimiser steps of the whole training are behind."""

    def epoch(self, record: EpochRecord, epochs: int) -> None:
        """An epoch ended."""


class Silent:
    """A watcher that looks away."""

    def step(self, done: int, total: int, place: Place) -> None: ...

    def epoch(self, record: EpochRecord, epochs: int) -> None: ...


@dataclass(frozen=True)
class Stopped:
    """Why `Trainer.run` came back: `finished`, `limit` (max_steps) or `asked` (a signal)."""

    why: str
    place: Place


class Trainer:
    """One training: the network, its optimiser, the data, and where it stands.

    Args:
        recipe: what to train.
        network: initialised, float32, on the device.
        objective: the method's loss.
        train, test: the splits.
        seed: of all random numbers.
        run: folder for metrics and resume states.
        origin: what a resume state records of the start.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: Network,
        objective: Objective,
        train: Split,
        test: Split,
        seed: int,
        run: RunFolder,
        origin: Origin,
    ) -> None:
        self.recipe, self.settings = recipe, recipe.training
        self.network, self.objective = network, objective
        self.train, self.test, self.seed = train, test, seed
        self.run_folder, self.origin = run, origin
        self.optimiser = optimiser(self.settings, network.parameters())
        self.augment = augmentation(self.settings.augmentation, train.spec)
        self.device = network.device
        self.place = Place()
        self.batch = min(self.settings.batch_size, len(train))
        whole = len(train) // self.batch if self.settings.drop_last else math.ceil(len(train) / self.batch)
        self.steps_per_epoch = max(whole, 1)
        self.total_steps = self.steps_per_epoch * self.settings.epochs

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the start of the training."""
        return (self.place.epoch - 1) * self.steps_per_epoch + self.place.step

    def resume(self, saved: state.State) -> None:
        """Go on from a resume state."""
        saved.restore(self.network, self.optimiser)
        self.place = saved.place

    def run(self, watcher: Watcher, stop: Callable[[], bool] = lambda: False, max_steps: int | None = None) -> Stopped:
        """Train until the last epoch ends, `stop()` says so, or `max_steps` more steps are done.

        Metrics are appended at every epoch's end; the resume state is written then, every SAVE_EVERY seconds, and
        before coming back early.

        Raises:
            RecipeError: when the loss or the weights stop being finite; the last good resume state is kept.
        """
        started, saved_at = self.steps_done, time.monotonic()
        while self.place.epoch <= self.settings.epochs:
            epoch = self.place.epoch
            order = self.order(epoch)
            self.set_rate(learning_rate(self.settings, epoch))
            self.network.train()
            while self.place.step < self.steps_per_epoch:
                why = "asked" if stop() else "limit" if max_steps == self.steps_done - started else None
                if why is not None:
                    self.save()
                    return Stopped(why, self.place)
                begun = time.monotonic()
                self.step(order)
                now = time.monotonic()
                self.place.sums.seconds += now - begun
                watcher.step(self.steps_done, self.total_steps, self.place)
                if now - saved_at >= SAVE_EVERY:
                    self.save()
                    saved_at = time.monotonic()
            record = self.end_epoch()
            watcher.epoch(record, self.settings.epochs)
            saved_at = time.monotonic()
        return Stopped("finished", self.place)

    def order(self, epoch: int) -> Tensor:
        """The order of the training points in an epoch: [rows] int64."""
        return torch.randperm(len(self.train), generator=generator(self.seed, "order", epoch))

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all weights."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def step(self, order: Tensor) -> None:
        """One optimiser step on the batch that is next in `order`."""
        epoch, step = self.place.epoch, self.place.step
        index = order[step * self.batch : (step + 1) * self.batch]
        points = self.train.points(index, dtype=torch.float32, device=self.device)
        labels = self.train.labels_tensor(index, device=self.device)
        points = self.augment(points, generator(self.seed, "augmentation", epoch, step))
        noise = generator(self.seed, "objective", epoch, step, device=self.device)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.objective(self.network, points, labels, Moment(epoch, self.settings.epochs, step, noise))
        errors = (loss.logits.detach().argmax(1) != labels).sum()
        # One transfer from the device a step.
        values = [part.detach().to(self.device, torch.float64) for part in (loss.total, errors, *loss.parts.values())]
        total, wrong, *parts = torch.stack(values).tolist()
        if not math.isfinite(total):
            raise self.diverged(f"the loss is {total}")
        loss.total.backward()
        self.optimiser.step()
        self.place.sums.add(len(index), total, int(wrong), dict(zip(loss.parts, parts, strict=True)))
        self.place.step += 1

    def end_epoch(self) -> EpochRecord:
        """Write the epoch's metrics, go to the next epoch, write the resume state."""
        begun = time.monotonic()
        sums = self.place.sums
        test_error = error(self.network, self.test)
        record = EpochRecord(
            epoch=self.place.epoch,
            steps=self.steps_done,
            learning_rate=self.optimiser.param_groups[0]["lr"],
            loss=sums.loss / sums.points,
            train_error=sums.errors / sums.points,
            parts={name: value / sums.points for name, value in sums.parts.items()},
            test_error=test_error,
            seconds=round(sums.seconds + time.monotonic() - begun, 3),
        )
        self.check_weights()
        # First the line, then the state: a line whose state was lost is dropped on resume (`runs.rewind`).
        append_lines(self.run_folder.metrics, [record.model_dump_json()])
        self.place = Place(self.place.epoch + 1, 0, Sums())
        self.save()
        return record

    def save(self) -> None:
        """Write the resume state, unless the weights are broken."""
        self.check_weights()
        state.save(self.run_folder.resume, self.network, self.optimiser, self.place, self.origin)

    def check_weights(self) -> None:
        """Raises: RecipeError when a weight is not finite."""
        if not all(bool(torch.isfinite(value).all()) for value in self.network.state_dict().values()):
            raise self.diverged("a weight is not finite")

    def diverged(self, what: str) -> RecipeError:
        """The error of a training that left the finite numbers."""
        kept = "; the last good state is kept" if self.run_folder.resume.is_file() else ""
        return RecipeError(
            f"training diverged: {what} at epoch {self.place.epoch}, step {self.place.step + 1}{kept}",
            f"lower the learning rate, e.g. --set training.optimiser.lr={self.settings.optimiser.lr / 10:g}",
        )


@torch.no_grad()
def error(network: Network, split: Split) -> float:
    """Share of the split's points that are misclassified (margin < 0), in the precision of the network."""
    was_training = network.training
    network.eval()
    wrong = 0
    for index in torch.arange(len(split)).split(TEST_BATCH):
        points = split.points(index, dtype=network.dtype, device=network.device)
        labels = split.labels_tensor(index, device=network.device)
        wrong += int((margins(network(points), labels) < 0).sum())
    network.train(was_training)
    return wrong / len(split)
