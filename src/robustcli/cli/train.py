"""`robust train`."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from robustcli.cli import common, signals
from robustcli.cli.training_progress import Display
from robustcli.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from robustcli.training.distributed import Group
    from robustcli.training.evaluation import Wish
    from robustcli.training.runs import Outcome, Request

EVALUATION = "Evaluation during training"


def train(
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Recipe by name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override of the recipe; the run gets a folder of its own."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers; names the run.")] = 0,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="LIST", help="A run for each, one after another: 0-4, or 0,3,7.")
    ] = None,
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

    --seeds trains the recipe once for each seed, in folders of their own, and
    ends with mean and standard deviation. The same command goes on.

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
    requests = [request] if seeds is None else _each(request, seeds, max_steps)
    if dry_run:
        from robustcli.cli.training_plan import show

        show(requests, fresh, wish, json)
        return
    from robustcli.training.distributed import joined, own_device

    with joined(own_device(device)) as group:
        notes = Console(stderr=True, quiet=quiet or not group.leads, highlight=False)
        requests = [replace(each, device=own_device(device)) for each in requests]
        outcomes = [_train(each, notes, fresh, max_steps, wish, group, json, verbose) for each in requests]
        if group.leads:
            _conclude(requests, outcomes, seeds is not None, json)


def _each(request: Request, seeds: str, max_steps: int | None) -> list[Request]:
    """The request with each of several seeds."""
    from robustcli.results.seeds import several

    if request.seed:
        raise UsageError("--seed and --seeds ask for different runs", "give one of them")
    if max_steps is not None:
        raise UsageError("--max-steps stops one run, --seeds asks for several", "give one of them")
    return [replace(request, seed=seed) for seed in several(seeds)]


def _conclude(requests: list[Request], outcomes: list[Outcome], several: bool, as_json: bool) -> None:
    """Print the document, or what several seeds have in common."""
    documents = [document(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]
    if not several:
        if as_json:
            sys.stdout.write(jsonlib.dumps(documents[0], indent=2) + "\n")
        return
    from robustcli.cli.seeds import over, table

    seeds = [request.seed for request in requests]
    if as_json:
        content = {"schema": "robustcli.train-seeds/1", "runs": documents} | over(outcomes)
        sys.stdout.write(jsonlib.dumps(content, indent=2) + "\n")
    else:
        Console(highlight=False).print(table(seeds, outcomes))


def _wish(evaluate: bool, at: str | None, points: int | None, epochs: int) -> Wish | None:
    """What the options of the evaluation ask for."""
    from robustcli.training.evaluation import Wish

    if evaluate or at is not None:
        return Wish.of(at, points, epochs)
    if points is not None:
        raise UsageError("--evaluate-points says on how many points, but not when", "add --evaluate or --evaluate-at")
    return None


def _train(
    request: Request,
    notes: Console,
    fresh: bool,
    max_steps: int | None,
    wish: Wish | None,
    group: Group,
    as_json: bool,
    verbose: bool,
) -> Outcome:
    """Train one run and say how it ended.

    Raises:
        Interrupted: by a signal.
    """
    from robustcli.training.distributed import StoppedElsewhere
    from robustcli.training.runs import train as work

    notes.print(f"{request.recipe.name}, seed {request.seed}: {request.run.path}", soft_wrap=True, markup=False)
    if group.size > 1:
        notes.print(f"{group.size} processes share every batch")
    with Display(notes, request.recipe.training.epochs, verbose, request.recipe.stages) as display:
        try:
            outcome = work(request, display, display.note, fresh=fresh, max_steps=max_steps, evaluate=wish, group=group)
        except StoppedElsewhere as error:  # the first process says why
            raise typer.Exit(error.exit_code) from None
    if not group.leads:
        return outcome
    again = "the same command goes on from here"
    if outcome.status == "interrupted":
        if outcome.run.finished:
            raise Interrupted(
                f"stopped during the evaluation; {outcome.run.path} is trained", "the same command redoes it"
            )
        done = f"{outcome.epochs_done} of {outcome.epochs} epochs done"
        raise Interrupted(f"stopped after step {outcome.steps} ({done}); the state is in {outcome.run.path}", again)
    if as_json:
        return outcome
    console = Console(highlight=False)
    if outcome.status == "stopped":
        notes.print(f"stopped after step {outcome.steps} as asked; {again}", soft_wrap=True)
        return outcome
    already = "already finished: " if outcome.status == "already-finished" else ""
    figure = outcome.figures.get("test_error")
    words = "" if figure is None else f", test error {100 * figure:.2f} %"
    console.print(
        f"{already}{outcome.epochs_done} epoch{'s' * (outcome.epochs_done != 1)}{words}  {outcome.run.weights}",
        soft_wrap=True,
    )
    if already:
        notes.print("train again with --fresh, or with another --seed", soft_wrap=True)
    return outcome


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
