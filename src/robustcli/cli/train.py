"""`robust train`."""

from __future__ import annotations

import json as jsonlib
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from robustcli.cli import common, signals
from robustcli.cli.training_progress import Display, duration
from robustcli.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from robustcli.training.distributed import Group
    from robustcli.training.evaluation import Wish
    from robustcli.training.plan import Plan
    from robustcli.training.runs import Outcome, Request

EVALUATION = "Evaluation during training"


def train(
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Recipe by name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override of the recipe; the run gets a folder of its own."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers; names the run.")] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; an earlier training of this run moves to previous/.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")] = False,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after N more steps; the same command goes on.")
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Bound the robust test error after epochs 1, 2, 5, 10, 20, 50, ... and the last.",
            rich_help_panel=EVALUATION,
        ),
    ] = False,
    evaluate_at: Annotated[
        str | None,
        typer.Option(
            "--evaluate-at", metavar="EPOCHS", help="The same after these: 1,2,5,10.", rich_help_panel=EVALUATION
        ),
    ] = None,
    evaluate_points: Annotated[
        int | None,
        typer.Option(
            "--evaluate-points",
            metavar="N",
            min=1,
            help="On the first N test points. (default: 1000)",
            rich_help_panel=EVALUATION,
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of runs. (default: $ROBUST_RUNS_DIR or ./runs)")
    ] = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print only the final metrics document.", rich_help_panel=common.OUTPUT)
    ] = False,
    quiet: common.Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for every epoch.", rich_help_panel=common.OUTPUT)
    ] = False,
) -> None:
    """Train the network of a recipe, or go on where an earlier call stopped.

    The same command goes on after Ctrl-C, kill or power loss: at most a minute
    of work is lost, and on the CPU the weights are bit for bit those of an
    uninterrupted run. A finished run is left alone.

    --evaluate certifies test points in every norm as the training goes on. It
    costs time, but does not change the network.

    Several GPUs: torchrun --nproc-per-node 2 -m robustcli train --recipe NAME

    Example: robust train --recipe digits-fc-kw-linf
    """
    with signals.loading():
        from robustcli.recipes.loading import load
        from robustcli.results.runs import runs_root
        from robustcli.training.runs import Request

    request = Request(
        recipe=load(recipe, overrides or ()),
        overrides=tuple(overrides or ()),
        seed=seed,
        root=runs or runs_root(),
        device=device,
        threads=threads,
    )
    wish = _wish(evaluate, evaluate_at, evaluate_points, request.recipe.training.epochs)
    if dry_run:
        _plan(request, fresh, wish, json)
        return
    from robustcli.training.distributed import joined, own_device

    request = replace(request, device=own_device(device))
    with joined(request.device) as group:
        notes = Console(stderr=True, quiet=quiet or not group.leads, highlight=False)
        _train(request, notes, fresh, max_steps, wish, group, json, verbose)


def _wish(evaluate: bool, at: str | None, points: int | None, epochs: int) -> Wish | None:
    """What the options of the evaluation ask for."""
    from robustcli.training.evaluation import Wish

    if evaluate or at is not None:
        return Wish.of(at, points, epochs)
    if points is not None:
        raise UsageError("--evaluate-points says on how many points, but not when", "add --evaluate or --evaluate-at")
    return None


def _plan(request: Request, fresh: bool, wish: Wish | None, as_json: bool) -> None:
    from robustcli.training.distributed import rank
    from robustcli.training.plan import plan

    if rank() > 0:
        return
    planned = plan(request, fresh=fresh, evaluate=wish)
    if as_json:
        values = vars(planned) | {"run": str(planned.run.path), "recipe": request.recipe.name, "seed": request.seed}
        sys.stdout.write(jsonlib.dumps(values, indent=2) + "\n")
        return
    console = Console(highlight=False)
    for name, text in _plan_lines(request, planned):
        line = f"{name:<11} {text}"
        if console.is_terminal:
            line = textwrap.fill(line, console.width, subsequent_indent=" " * 12, break_on_hyphens=False)
        console.print(line, soft_wrap=True, markup=False)


def _plan_lines(request: Request, planned: Plan) -> list[tuple[str, str]]:
    recipe, training = request.recipe, request.recipe.training
    settings = recipe.method.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    schedule = training.schedule.model_dump(mode="json", exclude={"name"})
    optimiser = training.optimiser.model_dump(mode="json", exclude={"name"})
    what = {
        "finished": "nothing: this run is finished",
        "goes on": f"go on at epoch {planned.epoch}, step {planned.step + 1}",
        "starts": "start a new run",
    }[planned.status]
    return [
        ("run", str(planned.run.path)),
        ("would", what),
        ("recipe", f"{recipe.name}: {recipe.summary}"),
        ("method", f"{recipe.method.name}: {_words(settings)}".rstrip(": ")),
        ("eps", _words({str(norm): eps for norm, eps in recipe.eps.items()})),
        ("data", f"{recipe.dataset}, {planned.train_rows} training and {planned.test_rows} test rows"),
        *([("partial", planned.partial)] if planned.partial else []),
        ("network", f"{recipe.architecture}, {planned.parameters} weights, {planned.hidden_units} hidden units"),
        ("optimiser", f"{training.optimiser.name}: {_words(optimiser)}"),
        ("schedule", f"{training.schedule.name}: {_words(schedule)}".rstrip(": ")),
        ("images", f"augmentation {training.augmentation}"),
        ("steps", f"{planned.epochs} epochs of {planned.steps_per_epoch} batches; {planned.steps_left} steps left"),
        *([("evaluate", _evaluations(planned))] if planned.evaluations else []),
        ("machine", f"{planned.device}, {planned.threads} threads"),
        ("time", f"about {duration(planned.seconds)} ({planned.seconds_per_step:.3g} s a step)"),
    ]


def _evaluations(planned: Plan) -> str:
    times = f"{planned.evaluations} time{'s' * (planned.evaluations > 1)}"
    return f"{times}, about {duration(planned.seconds_per_evaluation)} each (with the weights as they are now)"


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return " ".join(map(_word, value))
        case dict():
            return f"({_words(value)})"
    return str(value)


def _train(
    request: Request,
    notes: Console,
    fresh: bool,
    max_steps: int | None,
    wish: Wish | None,
    group: Group,
    as_json: bool,
    verbose: bool,
) -> None:
    from robustcli.training.distributed import StoppedElsewhere
    from robustcli.training.runs import train as work

    notes.print(f"{request.recipe.name}, seed {request.seed}: {request.run.path}", soft_wrap=True, markup=False)
    if group.size > 1:
        notes.print(f"{group.size} processes share every batch")
    with Display(notes, request.recipe.training.epochs, verbose) as display:
        try:
            outcome = work(request, display, display.note, fresh=fresh, max_steps=max_steps, evaluate=wish, group=group)
        except StoppedElsewhere as error:  # the first process says why
            raise typer.Exit(error.exit_code) from None
    if not group.leads:
        return
    again = "the same command goes on from here"
    if outcome.status == "interrupted":
        if outcome.run.finished:
            raise Interrupted(
                f"stopped during the evaluation; {outcome.run.path} is trained", "the same command redoes it"
            )
        done = f"{outcome.epochs_done} of {outcome.epochs} epochs done"
        raise Interrupted(f"stopped after step {outcome.steps} ({done}); the state is in {outcome.run.path}", again)
    if as_json:
        sys.stdout.write(jsonlib.dumps(document(request, outcome), indent=2) + "\n")
        return
    console = Console(highlight=False)
    if outcome.status == "stopped":
        notes.print(f"stopped after step {outcome.steps} as asked; {again}", soft_wrap=True)
        return
    already = "already finished: " if outcome.status == "already-finished" else ""
    figure = outcome.figures.get("test_error")
    words = "" if figure is None else f", test error {100 * figure:.2f} %"
    console.print(
        f"{already}{outcome.epochs_done} epoch{'s' * (outcome.epochs_done != 1)}{words}  {outcome.run.weights}",
        soft_wrap=True,
    )
    if already:
        notes.print("train again with --fresh, or with another --seed", soft_wrap=True)


def document(request: Request, outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "schema": "robustcli.train/1",
        "status": outcome.status,
        "recipe": request.recipe.name,
        "recipe_hash": request.recipe.hash,
        "overrides": list(request.overrides),
        "seed": request.seed,
        "run": str(outcome.run.path),
        "weights": str(outcome.run.weights) if outcome.run.finished else None,
        "epochs_done": outcome.epochs_done,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
        "figures": outcome.figures,
        "evaluations": [record.model_dump(mode="json") for record in outcome.evaluations],
        "last_epoch": None if outcome.last is None else outcome.last.model_dump(mode="json"),
    }
