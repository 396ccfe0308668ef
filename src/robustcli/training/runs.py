"""One training run from its recipe to its weights: start, go on, refuse, finish, or only plan.

The run folder tells where it stands. `weights.safetensors`: finished. `resume.safetensors`: go on from there, under the
same recipe and data. Neither: start. Files are replaced in one step, so every kill leaves one of these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from robustcli.data.datasets import load as load_split
from robustcli.devices import choose
from robustcli.errors import DataError
from robustcli.files import read_lines, write_text
from robustcli.networks import checkpoints
from robustcli.networks.architectures import build
from robustcli.networks.folding import folded, with_batch_norm
from robustcli.networks.initialisation import initialise
from robustcli.networks.network import Network
from robustcli.recipes.loading import dump
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder, run_folder
from robustcli.results.schema import EpochRecord, EvaluationRecord, canonical
from robustcli.training import state
from robustcli.training.distributed import ALONE, Group
from robustcli.training.evaluation import Evaluation, Wish
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
        evaluations: all on record, by epoch.
    """

    status: str
    run: RunFolder
    epochs_done: int
    epochs: int
    steps: int
    figures: dict[str, float | None]
    last: EpochRecord | None
    evaluations: list[EvaluationRecord] = field(default_factory=list)


def train(
    request: Request,
    watcher: Watcher,
    note: Callable[[str], None],
    *,
    fresh: bool = False,
    max_steps: int | None = None,
    evaluate: Wish | None = None,
    group: Group = ALONE,
) -> Outcome:
    """Train, or go on training, the network of a recipe.

    Args:
        watcher: told of steps, epochs and evaluations.
        note: told of decisions, one sentence each.
        fresh: put the files of an earlier training of the same run away and start anew.
        max_steps: come back after so many steps of this call, with a resume state.
        evaluate: after which epochs to bound the robust error; the network is the same with and without.
        group: the processes that train together; every one of them makes this call.
    Raises:
        RecipeError: the run was started under another recipe, or training diverged.
        DataError, CheckpointError, UsageError: data, resume state or folder cannot be used.
    """
    run = request.run
    if not fresh and group.first(lambda: _is_finished(run, request.recipe)):
        evaluated = evaluate is None or _evaluate_finished(request, evaluate, watcher, note, group)
        return group.first(lambda: _already(run, request.recipe, "already-finished" if evaluated else "interrupted"))
    trainer = prepare(request, group)
    if trainer.train.partial:
        note(f"partial data: {trainer.train.partial}")
    if evaluate is not None:
        trainer.evaluation = Evaluation(evaluate, request.recipe, trainer.test, run, group)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(listening(patient=group.size > 1))
        saved = group.first(lambda: _claim(held, run, fresh, note))
        threads = resume(trainer, saved, request, note)
        group.first(lambda: _write_start(request, trainer.place.epoch))
        if trainer.evaluation is not None:
            _tell_missed(trainer.evaluation, trainer.place.epoch - (trainer.place.step == 0), note)
        with repeatable(trainer.device, threads):
            ended = trainer.run(watcher, lambda: bool(stop), max_steps)
            figures = finish(trainer) if ended.why == "finished" else {}
    status = {"finished": "finished", "limit": "stopped", "asked": "interrupted"}[ended.why]
    done, epochs = trainer.place.epoch - 1, request.recipe.training.epochs
    return group.first(lambda: _outcome(status, run, done, epochs, trainer.steps_done, figures))


def _outcome(
    status: str, run: RunFolder, done: int, epochs: int, steps: int, figures: dict[str, float | None]
) -> Outcome:
    return Outcome(status, run, done, epochs, steps, figures, last_epoch(run), evaluated_epochs(run))


def _is_finished(run: RunFolder, recipe: Recipe) -> bool:
    """Whether there is nothing left to train, under a recipe that has not changed."""
    check_unchanged(run, recipe)
    return run.finished


def _claim(held: contextlib.ExitStack, run: RunFolder, fresh: bool, note: Callable[[str], None]) -> state.State | None:
    """Lock the run folder, put an earlier training away where asked; the state to go on from, if there is one."""
    held.enter_context(alone_in(run.path))
    if fresh and (old := put_away(run)):
        note(f"the earlier training of this run is now in {old}")
    return state.load(run.resume) if run.resume.is_file() else None


def _write_start(request: Request, epoch: int) -> None:
    """Write what this training is; drop lines about epochs that are still to come."""
    run = request.run
    write_text(run.recipe_file, dump(request.recipe))
    write_text(run.overrides_file, canonical(list(request.overrides)) + "\n")
    rewind(run, epoch)


def _tell_missed(evaluation: Evaluation, done: int, note: Callable[[str], None]) -> None:
    """Look up what is on record, and say which evaluations come too late, the network being that after epoch `done`."""
    evaluation.look()
    if missed := evaluation.missed(done):
        words = f"epoch{'s' * (len(missed) > 1)} {', '.join(map(str, missed))}"
        note(f"{words}: over, and these weights are gone: not evaluated (give --evaluate from the start)")


def _evaluate_finished(
    request: Request, wish: Wish, watcher: Watcher, note: Callable[[str], None], group: Group
) -> bool:
    """Evaluate the finished network, where its epoch is asked for and not done; False: stopped before the end."""
    run, recipe = request.run, request.recipe
    test = load_split(recipe.dataset, "test", partial=recipe.partial)
    evaluation, last = Evaluation(wish, recipe, test, run, group), recipe.training.epochs
    with contextlib.ExitStack() as held:
        stop = held.enter_context(listening(patient=group.size > 1))
        group.first(lambda: held.enter_context(alone_in(run.path)))
        _tell_missed(evaluation, last, note)
        network = checkpoints.load(run.weights).network.to(choose(request.device))
        held.enter_context(repeatable(network.device, request.threads or torch.get_num_threads()))
        return evaluation(network, last, watcher, lambda: bool(stop))


def prepare(request: Request, group: Group = ALONE) -> Trainer:
    """The training at its start: data read, network initialised; nothing is written."""
    recipe, device = request.recipe, choose(request.device)
    training, test = (load_split(recipe.dataset, split, partial=recipe.partial) for split in ("train", "test"))
    spec = training.spec
    if spec.classes < 2:
        raise DataError(f"{spec.name} has one class: there is nothing to tell apart", "training needs two at least")
    normalise = (spec.mean, spec.std) if recipe.normalise == "dataset" else None
    if normalise is not None and None in normalise:
        raise DataError(f"{spec.name} declares no mean and deviation", "set normalise to none")
    network = build(recipe.architecture, spec.input_shape, spec.classes, normalise=normalise)  # type: ignore[arg-type]
    if recipe.training.batch_norm:
        network = Network.from_description(with_batch_norm(network.describe()))
    initialise(network, recipe.training.initialisation, generator(request.seed, "initialisation"))
    network = network.to(device, torch.float32)
    threads = request.threads or torch.get_num_threads()
    origin = Origin(recipe.hash, training.hash, request.seed, threads, device.type, group.size)
    made = objective(recipe, network, request.seed)
    return Trainer(recipe, network, made, training, test, request.seed, request.run, origin, group)


def resume(trainer: Trainer, saved: state.State | None, request: Request, note: Callable[[str], None]) -> int:
    """Go on from a resume state if there is one; the number of threads to use."""
    origin = trainer.origin
    if saved is None:
        return origin.threads
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
    if origin.processes != saved.origin.processes:
        note(
            f"{origin.processes} processes instead of {saved.origin.processes}: sums differ in the last digits, "
            "and attacks start elsewhere, than in an uninterrupted run"
        )
    trainer.origin = replace(origin, threads=threads)
    return threads


def finish(trainer: Trainer) -> dict[str, float | None]:
    """Write weights and metadata, drop the resume state; the figures of the finished network."""
    run, recipe, group = trainer.run_folder, trainer.recipe, trainer.group
    last = group.first(lambda: last_epoch(run))
    network = folded(trainer.result)
    test_error = error(network.double(), trainer.test, trainer.group)
    figures: dict[str, float | None] = {"test_error": test_error}
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
    group.first(lambda: _write_end(run, network, metadata))
    return figures


def _write_end(run: RunFolder, network: Network, metadata: checkpoints.Metadata) -> None:
    checkpoints.save(run.weights, network, metadata)
    run.resume.unlink(missing_ok=True)


def _already(run: RunFolder, recipe: Recipe, status: str) -> Outcome:
    metadata, last = checkpoints.read_metadata(run.weights), last_epoch(run)
    run.resume.unlink(missing_ok=True)
    done, steps = metadata.epoch or 0, last.steps if last else 0
    return _outcome(status, run, done, recipe.training.epochs, steps, metadata.figures)


def last_epoch(run: RunFolder) -> EpochRecord | None:
    """The metrics of the last whole epoch, if there is one."""
    records = list(read_lines(run.metrics))
    return EpochRecord.model_validate(records[-1]) if records else None


def evaluated_epochs(run: RunFolder) -> list[EvaluationRecord]:
    """The evaluations on record, by epoch."""
    records = [EvaluationRecord.model_validate(line) for line in read_lines(run.evaluations)]
    return sorted(records, key=lambda record: record.epoch)
