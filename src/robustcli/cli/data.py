"""`robust data list | fetch | check`: the data sets, where they are, and whether they are sound."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from robustcli.data.sources import roots
from robustcli.data.specs import Spec, names, spec
from robustcli.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from rich.progress import TaskID

app = typer.Typer(help="List, download and check data sets.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Use this folder instead of $ROBUST_DATA_DIR and the cache.", show_default=False),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Data sets, also npz:PATH; default: all.")]


@app.command("list")
def list_command(wanted: Names = None, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show data sets: shape, classes, input box, rows, the papers' radii, and what is here."""
    from robustcli.data.checking import survey

    specs = [spec(name) for name in wanted or names()]
    states = {declared.name: survey(declared.name, data_dir) for declared in specs}
    if as_json:
        typer.echo(json.dumps([describe(item) | {"found": states[item.name].as_json()} for item in specs], indent=2))
        return
    console = Console()
    table = plain_table("name", "shape", "K", "box", "train/test", "eps l1 l2 linf", "data")
    for declared in specs:
        table.add_row(
            declared.name,
            "x".join(map(str, declared.input_shape)),
            str(declared.classes),
            "-" if declared.box is None else f"[{declared.box[0]:g},{declared.box[1]:g}]",
            "/".join(str(declared.rows.get(split, "-")) for split in ("train", "test")),
            " ".join(radius_text(declared, norm) for norm in ("l1", "l2", "linf")),
            "shipped" if declared.shipped else states[declared.name].status,
        )
    console.print(table)
    if any(declared.own_eps for declared in specs):
        console.print("* a radius of this project, in no paper", style="dim", highlight=False)
    for name, state in states.items():
        if state.folder is not None and not spec(name).shipped:
            rows = ", ".join(f"{split} {s.rows or '?'}" for split, s in state.splits.items() if s.status != "missing")
            console.print(f"{name}: {rows} in {state.folder}", soft_wrap=True, highlight=False)
    console.print(f"searched: {', '.join(str(root) for root in roots(data_dir))}", soft_wrap=True, highlight=False)


@app.command("fetch")
def fetch_command(
    wanted: Annotated[list[str], typer.Argument(metavar="NAME", help="Data sets, or `all`.")],
    data_dir: DataDir = None,
) -> None:
    """Download official files: resumed, checked, then put in place. Offline: says which files to put where."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from robustcli.data.fetching import fetch_all

    chosen = list(dict.fromkeys(names() if "all" in wanted else wanted))
    for name in chosen:  # before a progress display begins
        if name not in names():
            raise UnknownNameError("data set", name, names())
    for name in [name for name in chosen if spec(name).shipped]:
        typer.echo(f"{name}: shipped with the package, nothing to fetch")
        chosen.remove(name)
    columns = (TextColumn("{task.description}"), BarColumn(15), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=size)
            bars.update(tasks[file], completed=done)

        done, failed = fetch_all(chosen, data_dir, progress)
    for name, files in done.items():
        typer.echo(f"{name}: {', '.join(path.name for path in files)} in {files[0].parent}, checksums equal")
    if failed is not None:
        raise failed


@app.command("check")
def check_command(wanted: Names = None, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Read data sets whole, compare checksums and row counts.

    Exit code 3 when files are damaged, or a data set asked for by name is missing.
    """
    from robustcli.data.checking import MEANING, check

    states = [check(name, data_dir) for name in wanted or names()]
    found = [(state.name, split, seen) for state in states for split, seen in state.splits.items()]
    if as_json:
        typer.echo(json.dumps([state.as_json() for state in states], indent=2))
    else:
        console = Console()
        table = plain_table("name", "split", "status", "rows", "official", "format")
        for name, split, seen in found:
            rows = "-" if seen.rows is None else str(seen.rows)
            table.add_row(name, split, seen.status, rows, str(seen.official or "-"), seen.format or "-")
        console.print(table)
        for status in dict.fromkeys(seen.status for _, _, seen in found):
            console.print(f"{status}: {MEANING[status]}", style="dim", highlight=False)
    bad = ("damaged", "missing") if wanted else ("damaged",)
    problems = [f"{name} {split}: {seen.detail or seen.status}" for name, split, seen in found if seen.status in bad]
    if problems:
        own = all(name.startswith("npz:") for name, _, seen in found if seen.status in bad)
        hint = (
            "write the files again" if own else "run `robust data fetch NAME`; it replaces files whose checksum differs"
        )
        raise DataError("\n".join(problems), hint)


def plain_table(*headings: str) -> Table:
    """A table without lines, narrow enough for 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "name", overflow="fold")
    return table


def describe(declared: Spec) -> dict[str, object]:
    """A data set's declaration as plain values."""
    return {
        "name": declared.name,
        "title": declared.title,
        "input_shape": list(declared.input_shape),
        "classes": declared.classes,
        "box": None if declared.box is None else list(declared.box),
        "scale": declared.scale,
        "mean": declared.mean,
        "std": declared.std,
        "eps": dict(declared.eps),
        "own_eps": list(declared.own_eps),
        "rows": declared.rows,
        "licence": declared.licence,
        "sources": list(declared.sources),
    }


def radius_text(declared: Spec, norm: str) -> str:
    """A radius as the papers print it (0.1, 4/255), with a * when it is this project's own; - for none."""
    if norm not in declared.eps:
        return "-"
    value, pixels = declared.eps[norm], declared.eps[norm] * 255
    whole = value < 0.1 and abs(pixels - round(pixels)) < 1e-9
    return (str(Fraction(round(pixels), 255)) if whole else f"{value:g}") + ("*" if norm in declared.own_eps else "")
