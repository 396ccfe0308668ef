"""One training run from its recipe to its weights: start, go on, refuse, finish, or only plan.

The run folder tells where it stands. `weights.safetensors`: finished. `resume.safetensors`: go on from there, under the
same recipe and data. Neither: start. Files are replaced in one step, so every kill leaves one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from robustcli.data.datasets import load as load_split
from robustcli.devices import choose
from robustcli.errors import DataError
from robustcli.files import read_lines, write_text
from robustcli.networks import checkpoints
from robustcli.networks.architectures import build
from robustcli.networks.initialisation import initialise
from robustcli.recipes.loading import dump
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder, run_folder
from robustcli.results.schema import EpochRecord, canonical
from robustcli.training import state
from robustcli.training.folder import check_unchanged, put_away, rewind
from robustcli.training.interruption import alone_in, listening
from robustcli.training.loop import Trainer, Watcher, error
from robustcli.training.randomness import generator
from robustcli.training.registry import objective
from robustcli.training.repeatable import repeatable
from robustcli.training.state import Origin


@dataclass(frozen=True)
class Request:
    """What to train and where.

    Args:
        recipe: resolved.
        overrides: texts of `--set`, as typed; they name the folder.
        seed: of all random numbers.
        root: folder of all runs.
        device: auto, cpu or cuda.
        threads: of torch on the CPU; None: those the run was started with, else torch's choice.
    """

    recipe: Recipe
    overrides: tuple[str, ...]
    seed: int
    root: Path
    device: str = "auto"
    threads: int | None = None

    @property
    def run(self) -> RunFolder:
        """The run's folder."""
        return run_folder(self.root, self.recipe, self.overrides, self.seed)


@dataclass(frozen=True)
class Outcome:
    """How `train` ended.

    Args:
        status: `finished`, `already-finished`, `stopped` (max_steps) or `interrupted` (a signal).
        run: its folder.
        epochs_done, epochs: whole epochs.
        steps: optimiser steps done.
        figures: of the finished network, as fractions: test_error (float64), train_error, loss.
        last: metrics of the last whole epoch.
    """

    status: str
    run: RunFolder
    epochs_done: int
    epochs: int
    steps: int
    figures: dict[str, float | None]
    last: EpochRecord | None


def train(
    request: Request,
    watcher: Watcher,
    note: Callable[[str], None],
    *,
    fresh: bool = False,
    max_steps: int | None = None,
) -> Outcome:
    """Train, or go on training, the network of a recipe.

    Args:
        watcher: told of steps and epochs.
        note: told of decisions, one sentence each.
        fresh: put the files of an earlier training of the same run away and start anew.
        max_steps: come back after so many steps of this call, with a resume state.
    Raises:
        RecipeError: the run was started under another recipe, or training diverged.
        DataError, CheckpointError, UsageError: data, resume state or folder cannot be used.
    """
    run = request.run
    if not fresh:
        check_unchanged(run, request.recipe)
        if run.finished:
            return _already(run, request.recipe)
    trainer = prepare(request)
    if trainer.train.partial:
        note(f"partial data: {trainer.train.partial}")
    with alone_in(run.path), listening() as stop:
        if fresh and (old := put_away(run)):
            note(f"the earlier training of this run is now in {old}")
        threads = resume(trainer, request, note)
        write_text(run.recipe_file, dump(request.recipe))
        write_text(run.overrides_file, canonical(list(request.overrides)) + "\n")
        rewind(run, trainer.place.epoch)
        with repeatable(trainer.device, threads):
            ended = trainer.run(watcher, lambda: bool(stop), max_steps)
            figures = finish(trainer) if ended.why == "finished" else {}
    status = {"finished": "finished", "limit": "stopped", "asked": "interrupted"}[ended.why]
    done, last = trainer.place.epoch - 1, last_epoch(run)
    return Outcome(status, run, done, request.recipe.training.epochs, trainer.steps_done, figures, last)


def prepare(request: Request) -> Trainer:
    """The training at its start: data read, network initialised; nothing is written."""
    recipe, device = request.recipe, choose(request.device)
    training, test = (load_split(recipe.dataset, split, partial=recipe.partial) for split in ("train", "test"))
    spec = training.spec
    normalise = (spec.mean, spec.std) if recipe.normalise == "dataset" else None
    if normalise is not None and None in normalise:
        raise DataError(f"{spec.name} declares no mean and deviation", "set normalise to none")
    network = build(recipe.architecture, spec.input_shape, spec.classes, normalise=normalise)  # type: ignore[arg-type]
    initialise(network, recipe.training.initialisation, generator(request.seed, "initialisation"))
    network = network.to(device, torch.float32)
    threads = request.threads or torch.get_num_threads()
    origin = Origin(recipe.hash, training.hash, request.seed, threads, device.type)
    made = objective(recipe, network, request.seed)
    return Trainer(recipe, network, made, training, test, request.seed, request.run, origin)


def resume(trainer: Trainer, request: Request, note: Callable[[str], None]) -> int:
    """Go on from the folder's resume state if there is one; the number of threads to use."""
    path, origin = trainer.run_folder.resume, trainer.origin
    if not path.is_file():
        return origin.threads
    saved = state.load(path)
    if saved.origin.data_hash != origin.data_hash:
        raise DataError(
            f"{trainer.recipe.dataset}: the training data are not those this run was started with",
            "bring the data back, or start anew with --fresh",
        )
    trainer.resume(saved)
    note(f"going on at epoch {trainer.place.epoch}, step {trainer.place.step + 1}")
    threads = saved.origin.threads if request.threads is None else request.threads
    if (threads, origin.device) != (saved.origin.threads, saved.origin.device):
        note("other threads or device than before: the result may differ from an uninterrupted run in the last digits")
    trainer.origin = Origin(origin.recipe_hash, origin.data_hash, origin.seed, threads, origin.device)
    return threads


def finish(trainer: Trainer) -> dict[str, float | None]:
    """Write weights and metadata, drop the resume state; the figures of the finished network."""
    run, recipe, last = trainer.run_folder, trainer.recipe, last_epoch(trainer.run_folder)
    figures: dict[str, float | None] = {"test_error": error(trainer.network.double(), trainer.test)}
    if last is not None:
        figures |= {"train_error": last.train_error, "loss": last.loss}
    metadata = checkpoints.Metadata(
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        dataset=recipe.dataset,
        data_hash=trainer.train.hash,
        seed=trainer.seed,
        epoch=trainer.place.epoch - 1,
        epochs=recipe.training.epochs,
        figures=figures,
    )
    checkpoints.save(run.weights, trainer.network, metadata)
    run.resume.unlink(missing_ok=True)
    return figures


def _already(run: RunFolder, recipe: Recipe) -> Outcome:
    metadata, last = checkpoints.read_metadata(run.weights), last_epoch(run)
    run.resume.unlink(missing_ok=True)
    done, steps = metadata.epoch or 0, last.steps if last else 0
    return Outcome("already-finished", run, done, recipe.training.epochs, steps, metadata.figures, last)


def last_epoch(run: RunFolder) -> EpochRecord | None:
    """The metrics of the last whole epoch, if there is one."""
    records = list(read_lines(run.metrics))
    return EpochRecord.model_validate(records[-1]) if records else None
