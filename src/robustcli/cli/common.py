"""Options shared by the evaluation commands, and what they all do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robustcli.cli import signals
from robustcli.cli.showing import show_json, show_tables
from robustcli.errors import RobustError, UsageError

if TYPE_CHECKING:
    from robustcli.evaluation.batch import Evaluator
    from robustcli.evaluation.certify import FirstPass
    from robustcli.evaluation.session import Session
    from robustcli.results.schema import Command, PointRecord, Question, ResultDocument

WHICH, POINTS, OUTPUT = "Which network", "Which points", "Output"

Recipe = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Recipe (or imported model) by name.", rich_help_panel=WHICH)
]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="A weights.safetensors, or its folder.", rich_help_panel=WHICH)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override of the recipe, as in training.", rich_help_panel=WHICH),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Which of the recipe's runs.", rich_help_panel=WHICH)]
Runs = Annotated[
    Path | None,
    typer.Option("--runs", help="Folder of runs (default: $ROBUST_RUNS_DIR or ./runs).", rich_help_panel=WHICH),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="Data set, where it is not the recipe's.", rich_help_panel=POINTS)
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Accept fewer rows than the official split.", rich_help_panel=POINTS)
]
Norm = Annotated[str | None, typer.Option("--norm", "-n")]
Eps = Annotated[str | None, typer.Option("--eps", "-e", help="Radius, e.g. 0.1 or 2/255. (default: the recipe's)")]
Box = Annotated[
    bool | None, typer.Option("--box/--no-box", help="Cut the ball with the input box. (default: where there is one)")
]
Points = Annotated[
    str, typer.Option("--points", "-p", help="First N test points, a range a:b, or all.", rich_help_panel=POINTS)
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Only every N-th point, from the I-th.", rich_help_panel=POINTS),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Points at once; no influence on answers. (default: auto)")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. (default: all cores)")]
MaxSeconds = Annotated[
    float | None,
    typer.Option("--max-seconds", min=0, help="Stop after this long; the rest stays open (exit code 5)."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for results. (default: the run's)", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print only the result document.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.", rich_help_panel=OUTPUT)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Where files go, per-method counts.", rich_help_panel=OUTPUT)
]


@dataclass(frozen=True)
class Plan:
    """How a command answers for one norm.

    Args:
        evaluator: answers every point.
        settings: what belongs to the question.
        first: a quick pass over all points before, with a forecast of what it leaves open.
        conclude: further fields of the summary, from question and records.
    """

    evaluator: Evaluator
    settings: dict[str, Any]
    first: FirstPass | None = None
    conclude: Callable[[Question, Mapping[int, PointRecord]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Checked:
    """What a command says instead of answering a question.

    Args:
        words: for people.
        document: the same for machines.
        problem: what is wrong, raised once all is said.
    """

    words: str
    document: dict[str, Any]
    problem: RobustError | None = None


MakePlan = Callable[["Session", str], Plan | Checked]
"""From a session and a norm to the plan."""


def _shared(
    recipe: Recipe = None,
    checkpoint: Checkpoint = None,
    norm: Norm = None,
    eps: Eps = None,
    box: Box = None,
    points: Points = "1000",
    shard: Shard = None,
    dataset: Dataset = None,
    partial: Partial = False,
    overrides: Set = None,
    seed: Seed = 0,
    runs: Runs = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    threads: Threads = None,
    max_seconds: MaxSeconds = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Carries the options that all evaluation commands share; see `evaluation`."""


def evaluation(
    command: Command, *, only: tuple[str, ...] | None = None, radius: bool = True
) -> Callable[[Callable[..., MakePlan]], Callable[..., None]]:
    """Make an evaluation command out of a function that takes the command's own options and returns `MakePlan`.

    Args:
        command: its name.
        only: norms the command knows; None for any.
        radius: whether the question has an eps (bound-distance has none, and no `--eps`).
    """

    def wrap(function: Callable[..., MakePlan]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        shared = dict(inspect.signature(_shared, eval_str=True).parameters)
        shared["norm"] = shared["norm"].replace(annotation=_norm_option(only))
        if not radius:
            del shared["eps"]

        def run(**values: Any) -> None:
            make = function(**{name: values.pop(name) for name in own})
            _evaluate(command, make, only, radius, values)

        everything = [*list(shared.values())[:5], *own.values(), *list(shared.values())[5:]]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in everything]
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
        run.__name__, run.__doc__, run.__module__ = function.__name__, _unwrapped(function.__doc__), function.__module__
        return run

    return wrap


def _norm_option(only: tuple[str, ...] | None) -> Any:
    """`--norm` as a command explains it."""
    if only is not None and len(only) == 1:
        words = f"Only {only[0]}."
    else:
        words = f"l1, l2, linf{' or union' if only else ', union, or any p >= 1'}. (default: the recipe's)"
    return Annotated[str | None, typer.Option("--norm", "-n", help=words)]


def _unwrapped(text: str | None) -> str:
    """A docstring with one line a paragraph: the help fits it to the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n"))


def _evaluate(
    command: Command, make: MakePlan, only: tuple[str, ...] | None, radius: bool, values: dict[str, Any]
) -> None:
    """Resolve the selection, answer the question for each norm asked for, print."""
    with signals.loading():
        from robustcli.evaluation.runner import answer
        from robustcli.evaluation.session import Selection, open_session
        from robustcli.results.schema import Question
        from robustcli.results.store import PointStore

    json, quiet, verbose = (values.pop(name) for name in ("json", "quiet", "verbose"))
    use_threads(values.pop("threads"))
    overrides = values.pop("overrides")
    if overrides and values["recipe"] is None:
        raise UsageError("--set changes a recipe, but no --recipe was given", "add --recipe NAME")
    session = open_session(Selection(boxed=values.pop("box"), **values, overrides=tuple(overrides or ())))
    notes = Console(stderr=True, quiet=quiet or json, highlight=False)
    notes.print(f"{session.source} ({session.network.name}, {session.spec.name})", soft_wrap=True)
    if session.data.partial:
        notes.print(f"[yellow]partial data:[/] {session.data.partial}", soft_wrap=True)
    if not session.indices:
        notes.print(f"no point of {values['points']} falls to shard {values['shard']}", soft_wrap=True)
    documents, verdicts = [], []
    for norm in _norms(session, command, only):
        plan = make(session, norm)
        if isinstance(plan, Checked):
            print(dumps(plan.document, indent=2) if json else plan.words)
            if plan.problem is not None:
                raise plan.problem
            return
        box = session.box()
        question = Question(
            command=command,
            norm=norm,
            eps=session.eps(norm) if radius else None,
            boxed=box is not None,
            model=session.model_hash,
            data=session.data.hash,
            settings=plan.settings,
        )
        title = f"{command} {norm}" + (f" eps {question.eps:g}" if question.eps is not None else "")
        with progress_bar(notes, title) as show:
            documents.append(
                answer(
                    session,
                    question,
                    plan.evaluator,
                    show,
                    first=plan.first,
                    forecast=None if plan.first is None else partial(_say, notes, plan.first.forecast),
                    conclude=None if plan.conclude is None else partial(plan.conclude, question),
                )
            )
        folder = session.run.question_dir(question)
        records = PointStore(folder, session.shard).records()
        verdicts.append({index: records[index].verdict for index in session.indices if index in records})
        _say_kept(notes, documents[-1], folder)
        if verbose:
            notes.print(f"records: {folder}", soft_wrap=True)
    if json:
        show_json(documents)
    else:
        show_tables(documents, verdicts)


def _say_kept(notes: Console, document: ResultDocument, folder: Path) -> None:
    """How many answers another version of this package made: they are kept, right or wrong."""
    from robustcli.results import provenance

    older = {name: count for name, count in document.provenance.made_by.items() if name != provenance.maker()}
    if older:
        notes.print(
            f"{sum(older.values())} of {document.summary.points} answers are kept from robustcli "
            f"{', '.join(sorted(older))}; to ask again, move {folder} away",
            soft_wrap=True,
        )


def _say(notes: Console, words: object) -> None:
    """A note that is made up when it is said."""
    notes.print(str(words), soft_wrap=True)


def _norms(session: Session, command: str, only: tuple[str, ...] | None) -> list[str]:
    """The norms to answer for; those of a recipe that the command does not know are left out, one asked for is refused.

    Raises:
        UsageError: for a norm on the command line that the command does not know.
    """
    norms = session.norms()
    if only is None:
        return norms
    unknown = [norm for norm in norms if norm not in only]
    if unknown and session.selection.norm is not None:
        raise UsageError(
            f"{command} knows {', '.join(only)}, not {session.selection.norm}",
            f"try robust certify --norm {session.selection.norm}",
        )
    return [norm for norm in norms if norm in only] or [only[0]]


def use_threads(count: int | None) -> None:
    """Set torch's CPU threads."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


class progress_bar:
    """A progress line on stderr with counts by verdict and time left."""

    def __init__(self, console: Console, title: str) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self.title = title

    def __enter__(self) -> Callable[[int, int, dict[str, int]], None]:
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=None, counts="")
        return self.update

    def update(self, done: int, total: int, counts: dict[str, int]) -> None:
        """Show `done` of `total` points."""
        words = " ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        self.bar.update(self.task, completed=done, total=total, counts=words)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
