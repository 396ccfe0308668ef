"""`robust train`."""

from __future__ import annotations

import json as jsonlib
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robustcli.cli import common, signals
from robustcli.errors import Interrupted

if TYPE_CHECKING:
    from robustcli.results.schema import EpochRecord
    from robustcli.training.plan import Plan
    from robustcli.training.runs import Outcome, Request
    from robustcli.training.state import Place

LINE_EVERY = 10.0
"""Seconds between two lines of progress where no terminal can show a bar."""


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
    notes = Console(stderr=True, quiet=quiet, highlight=False)
    if dry_run:
        _plan(request, fresh, json)
        return
    _train(request, notes, fresh, max_steps, json, verbose)


def _plan(request: Request, fresh: bool, as_json: bool) -> None:
    from robustcli.training.plan import plan

    planned = plan(request, fresh=fresh)
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
        ("machine", f"{planned.device}, {planned.threads} threads"),
        ("time", f"about {duration(planned.seconds)} ({planned.seconds_per_step:.3g} s a step)"),
    ]


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


def _train(request: Request, notes: Console, fresh: bool, max_steps: int | None, as_json: bool, verbose: bool) -> None:
    from robustcli.training.runs import train as work

    notes.print(f"{request.recipe.name}, seed {request.seed}: {request.run.path}", soft_wrap=True, markup=False)
    with Display(notes, request.recipe.training.epochs, verbose) as display:
        outcome = work(request, display, display.note, fresh=fresh, max_steps=max_steps)
    again = "the same command goes on from here"
    if outcome.status == "interrupted":
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
        "last_epoch": None if outcome.last is None else outcome.last.model_dump(mode="json"),
    }


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Progress on stderr: a bar with the time left on a terminal, now and then a line elsewhere."""

    def __init__(self, console: Console, epochs: int, verbose: bool) -> None:
        self.console, self.verbose = console, verbose
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self.epochs, self.tested = epochs, ""
        self.task: Any = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """One sentence for the user."""
        self.console.print(text, soft_wrap=True, markup=False)

    def step(self, done: int, total: int, place: Place) -> None:
        """Move the bar."""
        if self.task is None:
            self.task = self.bar.add_task("", total=total, completed=done - 1, words="")
            self.bar.start()
        loss = place.sums.loss / max(place.sums.points, 1)
        epoch = f"epoch {place.epoch}/{self.epochs}"
        self.bar.update(self.task, completed=done, description=epoch, words=f"loss {loss:.4f}{self.tested}")

    def epoch(self, record: EpochRecord, epochs: int) -> None:
        """Note the epoch's figures; print them where wanted."""
        error = record.test_error
        self.tested = "" if error is None else f" test {100 * error:.2f} %"
        due = not self.console.is_terminal and time.monotonic() - self.last_line >= LINE_EVERY
        if not (self.verbose or due or (record.epoch == epochs and not self.console.is_terminal)):
            return
        self.last_line = time.monotonic()
        parts = "".join(f"  {name} {value:.4g}" for name, value in record.parts.items())
        self.note(
            f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}{parts}  train {100 * record.train_error:.2f} %"
            f" {self.tested}  lr {record.learning_rate:g}  {record.seconds:.1f} s"
        )
