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
from robustcli.data.division import divided
from robustcli.errors import RecipeError
from robustcli.files import append_lines
from robustcli.networks import checkpoints
from robustcli.networks.network import Network, margins
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder
from robustcli.results.schema import EpochRecord, EvaluationRecord
from robustcli.training import evaluation, held_out, state
from robustcli.training.augmentation import augmentation
from robustcli.training.averaging import Average
from robustcli.training.distributed import ALONE, Group
from robustcli.training.evaluation import Evaluation
from robustcli.training.objective import Moment, Objective
from robustcli.training.randomness import generator
from robustcli.training.schedules import optimiser
from robustcli.training.stages import Stages
from robustcli.training.state import Origin, Place, Sums

SAVE_EVERY = 60.0
"""Seconds between two resume states inside an epoch."""
TEST_BATCH = 500


class Watcher(evaluation.Watcher, Protocol):
    """Told what happens; prints or draws it."""

    def step(self, done: int, total: int, place: Place) -> None:
        """`done` of `total` optimiser steps of the whole training are behind."""

    def epoch(self, record: EpochRecord, epochs: int) -> None:
        """An epoch ended."""


class Silent:
    """A watcher that looks away."""

    def step(self, done: int, total: int, place: Place) -> None: ...

    def epoch(self, record: EpochRecord, epochs: int) -> None: ...

    def evaluating(self, epoch: int, done: int, total: int) -> None: ...

    def evaluated(self, record: EvaluationRecord, epochs: int) -> None: ...


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
        group: the processes that share every batch; only the first one writes.

    `evaluation`, when set, is asked after every epoch; it leaves no trace in the weights.
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
        group: Group = ALONE,
    ) -> None:
        group.check(network)
        self.recipe, self.settings = recipe, recipe.training
        self.network, self.objective = network, objective
        self.average = Average.of(self.settings, network)
        self.train, self.test, self.seed = train, test, seed
        self.run_folder, self.origin, self.group = run, origin, group
        self.evaluation: Evaluation | None = None
        self.stages = Stages.of(recipe)
        changes, padding, limits = self.settings.augmentation, self.settings.padding, self.settings.affine
        self.augment = augmentation(changes, train.spec, padding, limits)
        self.device = network.device
        self.place = Place()
        self.optimiser = self.fresh_optimiser()
        if self.settings.held_out >= len(train):
            raise RecipeError(f"training.held_out {self.settings.held_out} leaves none of {len(train)} training rows")
        self.rows, self.kept_out = divided(train.labels, self.settings.held_out)
        count = len(self.rows)
        self.batch = min(self.settings.batch_size, count)
        whole = count // self.batch if self.settings.drop_last else math.ceil(count / self.batch)
        last = 0 if self.settings.drop_last else count % self.batch
        if self.settings.batch_norm and (last or self.batch) == 1:
            raise RecipeError(
                f"training.batch_norm: {count} rows in batches of {self.batch} end with a single one",
                "set training.drop_last to true, or another training.batch_size",
            )
        self.steps_per_epoch = max(whole, 1)
        self.total_steps = self.steps_per_epoch * self.settings.epochs

    @property
    def result(self) -> Network:
        """The network that is evaluated and, in the end, saved: the moving average where there is one."""
        return self.network if self.averaged is None else self.averaged

    @property
    def averaged(self) -> Network | None:
        """The moving average of the weights, where the recipe asks for one."""
        return None if self.average is None else self.average.network

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the start of the training."""
        return (self.place.epoch - 1) * self.steps_per_epoch + self.place.step

    def resume(self, saved: state.State) -> None:
        """Go on from a resume state."""
        self.place = saved.place
        self.optimiser = self.fresh_optimiser()
        saved.restore(self.network, self.averaged, self.optimiser)

    def fresh_optimiser(self) -> torch.optim.Optimizer:
        """The optimiser at the beginning of the stage that the place belongs to; only its weights have gradients."""
        return optimiser(self.settings, self.stages.freeze(self.network, self.place.epoch))

    def run(self, watcher: Watcher, stop: Callable[[], bool] = lambda: False, max_steps: int | None = None) -> Stopped:
        """Train until the last epoch ends, `stop()` says so, or `max_steps` more steps are done.

        Metrics are appended at every epoch's end; the resume state is written then, every SAVE_EVERY seconds, and
        before coming back early.

        Raises:
            RecipeError: when the loss or the weights stop being finite; the last good resume state is kept.
        """
        started = self.steps_done
        while True:
            epoch = self.place.epoch
            if self.place.step == 0 and not self.evaluate(watcher, stop):
                return Stopped("asked", self.place)
            if epoch > self.settings.epochs:
                return Stopped("finished", self.place)
            order = self.order(epoch)
            self.set_rate(self.stages.rate(epoch))
            self.network.train()
            saved_at = time.monotonic()
            while self.place.step < self.steps_per_epoch:
                asked = self.group.any(stop())
                why = "asked" if asked else "limit" if max_steps == self.steps_done - started else None
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
            watcher.epoch(self.end_epoch(), self.settings.epochs)

    def evaluate(self, watcher: Watcher, stop: Callable[[], bool]) -> bool:
        """Evaluate the network of the epoch that just ended, where that is asked for; False: stopped before the end."""
        return self.evaluation is None or self.evaluation(self.result, self.place.epoch - 1, watcher, stop)

    def order(self, epoch: int) -> Tensor:
        """The rows of the training split in the order of an epoch, without those kept out: int64."""
        order = torch.randperm(len(self.rows), generator=generator(self.seed, "order", epoch))
        return torch.from_numpy(self.rows)[order]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all weights."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def step(self, order: Tensor) -> None:
        """One optimiser step on the batch that is next in `order`; each process works on its share of it."""
        epoch, step = self.place.epoch, self.place.step
        index = order[step * self.batch : (step + 1) * self.batch]
        points = self.train.points(index, dtype=torch.float32, device=self.device)
        labels = self.train.labels_tensor(index, device=self.device)
        points = self.augment(points, generator(self.seed, "augmentation", epoch, step))
        share = self.group.share(len(index))
        points, labels = points[share.index].contiguous(), labels[share.index]
        noise = generator(self.seed, "objective", epoch, step, *self.group.seeding, device=self.device)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.objective(self.network, points, labels, self.moment(noise))
        wrong = (loss.logits.detach().argmax(1) != labels).double().mean()
        # One transfer from the device a step.
        values = [part.detach().to(self.device, torch.float64) for part in (loss.total, wrong, *loss.parts.values())]
        total, error_rate, *parts = self.group.mean(torch.stack(values).cpu(), share.weight).tolist()
        if not math.isfinite(total):
            raise self.diverged(f"the loss is {total}")
        loss.total.backward()
        self.group.average_gradients(self.network.parameters(), share.weight)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.step(self.network, epoch)
        self.place.sums.add(
            len(index), total, round(error_rate * len(index)), dict(zip(loss.parts, parts, strict=True))
        )
        self.place.step += 1

    def moment(self, noise: torch.Generator) -> Moment:
        """Where the training stands, with the random numbers of this step."""
        return Moment(self.place.epoch, self.settings.epochs, self.place.step, noise, self.steps_per_epoch)

    def end_epoch(self) -> EpochRecord:
        """Write the epoch's metrics, go to the next epoch, write the resume state."""
        begun = time.monotonic()
        sums = self.place.sums
        test_error = error(self.result, self.test, self.group)
        look = held_out.LOOKS.get(self.recipe.method.name, held_out.Look())
        open_points = {}
        if len(self.kept_out):
            radii = {str(norm): eps for norm, eps in self.recipe.eps.items()}
            open_points = held_out.certified_errors(
                self.result, self.train, self.kept_out[: look.points], radii, bound=look.bound, group=self.group
            )
        record = EpochRecord(
            epoch=self.place.epoch,
            steps=self.steps_done,
            learning_rate=self.optimiser.param_groups[0]["lr"],
            loss=sums.loss / sums.points,
            train_error=sums.errors / sums.points,
            parts={name: value / sums.points for name, value in sums.parts.items()},
            test_error=test_error,
            certified_error=open_points,
            seconds=round(sums.seconds + time.monotonic() - begun, 3),
        )
        self.check_weights()
        # First the line, then the state: a line whose state was lost is dropped on resume (`runs.rewind`).
        if self.group.leads:
            append_lines(self.run_folder.metrics, [record.model_dump_json()])
        self.place = Place(self.place.epoch + 1, 0, Sums())
        if self.stages.begins(self.place.epoch):
            self.end_stage()
        self.save()
        return record

    def end_stage(self) -> None:
        """Keep the weights of the stage that just ended, and begin the next one."""
        done = self.place.epoch - 1
        metadata = checkpoints.Metadata(
            recipe=self.recipe.name,
            recipe_hash=self.recipe.hash,
            dataset=self.recipe.dataset,
            data_hash=self.origin.data_hash,
            seed=self.seed,
            epoch=done,
            epochs=self.settings.epochs,
        )
        if self.group.leads:
            checkpoints.save(self.run_folder.stage_weights(self.stages.at(done) + 1), self.network, metadata)
        self.optimiser = self.fresh_optimiser()

    def save(self) -> None:
        """Write the resume state, unless the weights are broken."""
        self.check_weights()
        if self.group.leads:
            path, place = self.run_folder.resume, self.place
            state.save(path, self.network, self.averaged, self.optimiser, place, self.origin)

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
def error(network: Network, split: Split, group: Group = ALONE) -> float:
    """Share of the split's points that are misclassified (margin < 0), in the precision of the network."""
    was_training = network.training
    network.eval()
    wrong = 0
    for index in torch.arange(len(split)).split(TEST_BATCH)[group.rank :: group.size]:
        points = split.points(index, dtype=network.dtype, device=network.device)
        labels = split.labels_tensor(index, device=network.device)
        wrong += int((margins(network(points), labels) < 0).sum())
    network.train(was_training)
    return int(group.sum(torch.tensor(wrong))) / len(split)
