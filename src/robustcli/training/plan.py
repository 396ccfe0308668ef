"""What a training would do and how long it would take, measured with two steps a stage; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from robustcli.results.runs import RunFolder
from robustcli.training import state
from robustcli.training.distributed import ALONE
from robustcli.training.evaluation import Evaluation, Wish
from robustcli.training.folder import check_unchanged
from robustcli.training.loop import TEST_BATCH, Trainer
from robustcli.training.repeatable import repeatable
from robustcli.training.runs import Request, prepare, resume
from robustcli.training.state import Place


@dataclass(frozen=True)
class Plan:
    """What a training would do.

    Args:
        status: `finished`, `goes on` or `starts`.
        epoch, step: where it would start.
        seconds_per_step: measured on this machine now; with several stages left the mean over their steps.
        evaluations: how many are left.
        seconds_per_evaluation: scaled up from a batch, with the weights as they are now.
        seconds: estimate for all that is left, tests and evaluations included.
    """

    status: str
    run: RunFolder
    train_rows: int
    test_rows: int
    partial: str | None
    parameters: int
    hidden_units: int
    epoch: int
    step: int
    epochs: int
    steps_per_epoch: int
    steps_left: int
    seconds_per_step: float
    evaluations: int
    seconds_per_evaluation: float
    seconds: float
    device: str
    threads: int


def plan(request: Request, *, fresh: bool = False, evaluate: Wish | None = None) -> Plan:
    """Measure two steps a stage on a throw-away network and say what would be done; nothing is written."""
    run, recipe = request.run, request.recipe
    if not fresh:
        check_unchanged(run, recipe)
    trainer = prepare(request)
    finished = run.finished and not fresh
    goes_on = run.resume.is_file() and not run.finished and not fresh
    saved = state.load(run.resume) if goes_on else None
    threads = resume(trainer, saved, request, lambda text: None)
    place = trainer.place
    left = 0 if finished else trainer.total_steps - trainer.steps_done
    with repeatable(trainer.device, threads):
        all_steps, per_test = (_steps(trainer), _test(trainer)) if left else (0.0, 0.0)
        evaluations, per_evaluation = _evaluations(trainer, evaluate, fresh, finished)
    tests = recipe.training.epochs - place.epoch + 1
    return Plan(
        status="finished" if finished else "goes on" if goes_on else "starts",
        run=run,
        train_rows=len(trainer.train),
        test_rows=len(trainer.test),
        partial=trainer.train.partial,
        parameters=trainer.network.parameter_count,
        hidden_units=trainer.network.hidden_units,
        epoch=place.epoch,
        step=place.step,
        epochs=recipe.training.epochs,
        steps_per_epoch=trainer.steps_per_epoch,
        steps_left=left,
        seconds_per_step=all_steps / max(left, 1),
        evaluations=evaluations,
        seconds_per_evaluation=per_evaluation,
        seconds=all_steps + (tests * per_test if left else 0.0) + evaluations * per_evaluation,
        device=str(trainer.device),
        threads=threads,
    )


def _evaluations(trainer: Trainer, wish: Wish | None, fresh: bool, finished: bool) -> tuple[int, float]:
    """How many evaluations are left, and the seconds of one."""
    if wish is None:
        return 0, 0.0
    evaluation, place = Evaluation(wish, trainer.recipe, trainer.test, trainer.run_folder, ALONE), trainer.place
    if not fresh:
        evaluation.look()
    left = evaluation.left(trainer.recipe.training.epochs if finished else place.epoch - (place.step == 0))
    return left, evaluation.estimate(trainer.network) if left else 0.0


def _steps(trainer: Trainer) -> float:
    """Seconds of all steps left: in every stage each takes as long as its second one, with the weights as they are."""
    begin, stages, seconds = trainer.place, trainer.stages, 0.0
    for stage in range(stages.at(begin.epoch), stages.count):
        last = (stage + 1) * stages.epochs
        first = begin.epoch if stage == stages.at(begin.epoch) else last
        trainer.place = Place(first, 0)
        trainer.optimiser = trainer.fresh_optimiser()
        left = min(
            (last - begin.epoch + 1) * trainer.steps_per_epoch - begin.step, stages.epochs * trainer.steps_per_epoch
        )
        seconds += left * _second_step(trainer)
    trainer.place = begin
    return seconds


def _second_step(trainer: Trainer) -> float:
    """Seconds of the second step from here, which is warm."""
    place, seconds = trainer.place, 0.0
    order = trainer.order(place.epoch)
    trainer.network.train()
    for _ in range(2):
        trainer.place = Place(place.epoch, 0)
        begun = time.monotonic()
        trainer.step(order)
        seconds = time.monotonic() - begun
    return seconds


def _test(trainer: Trainer) -> float:
    """Seconds of one pass over the test split, scaled up from a batch."""
    sample = torch.arange(min(TEST_BATCH, len(trainer.test)))
    points = trainer.test.points(sample, dtype=torch.float32, device=trainer.device)
    begun = time.monotonic()
    with torch.no_grad():
        trainer.network(points).argmax(1).tolist()
    return (time.monotonic() - begun) * len(trainer.test) / len(sample)
