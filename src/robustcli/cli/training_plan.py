"""What `robust train --dry-run` prints."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console

from robustcli.cli.training_progress import duration

if TYPE_CHECKING:
    from robustcli.recipes.model import Training
    from robustcli.training.evaluation import Wish
    from robustcli.training.plan import Plan
    from robustcli.training.runs import Request


def show(requests: list[Request], fresh: bool, wish: Wish | None, as_json: bool) -> None:
    """Plan every run, and print the plans: as lines, or as JSON (an array of several)."""
    from robustcli.training.distributed import rank
    from robustcli.training.plan import plan

    if rank() > 0:
        return
    plans = [plan(request, fresh=fresh, evaluate=wish) for request in requests]
    if as_json:
        documents = [
            vars(planned) | {"run": str(planned.run.path), "recipe": request.recipe.name, "seed": request.seed}
            for request, planned in zip(requests, plans, strict=True)
        ]
        sys.stdout.write(json.dumps(documents if len(documents) > 1 else documents[0], indent=2) + "\n")
        return
    console = Console(highlight=False)
    for request, planned in zip(requests, plans, strict=True):
        for name, text in _lines(request, planned):
            line = f"{name:<11} {text}"
            if console.is_terminal:
                line = textwrap.fill(line, console.width, subsequent_indent=" " * 12, break_on_hyphens=False)
            console.print(line, soft_wrap=True, markup=False)


def _lines(request: Request, planned: Plan) -> list[tuple[str, str]]:
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
        *([("averaging", _words(training.averaging.model_dump()))] if training.averaging else []),
        ("images", _images(training)),
        ("steps", f"{planned.epochs} epochs of {planned.steps_per_epoch} batches; {planned.steps_left} steps left"),
        *([("evaluate", _evaluations(planned))] if planned.evaluations else []),
        ("machine", f"{planned.device}, {planned.threads} threads"),
        ("time", f"about {duration(planned.seconds)} ({planned.seconds_per_step:.3g} s a step)"),
    ]


def _images(training: Training) -> str:
    limits = {"none": {}, "affine": training.affine.model_dump()}
    words = _words(limits.get(training.augmentation, {"padding": training.padding}))
    return f"augmentation {training.augmentation}: {words}".rstrip(": ")


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
