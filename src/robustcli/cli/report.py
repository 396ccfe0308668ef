"""`robust report`: collect runs into the papers' tables."""

from __future__ import annotations

import json
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from robustcli.results.collect import Content
    from robustcli.results.runs import RunFolder


class Format(StrEnum):
    text = "text"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    latex = "latex"


SUFFIXES = {
    ".txt": Format.text,
    ".md": Format.markdown,
    ".csv": Format.csv,
    ".json": Format.json,
    ".tex": Format.latex,
}


def report(
    run: Annotated[
        list[str] | None, typer.Argument(help="Run folders or names; default: all runs.", show_default=False)
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of runs; default: $ROBUST_RUNS_DIR or ./runs.")
    ] = None,
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="Default: by the ending of --out, else text.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of stdout.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    norm: Annotated[list[str] | None, typer.Option(help="Only this norm; repeat for several.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Only runs of this recipe, any overrides and seeds.")] = None,
    containment: Annotated[
        bool, typer.Option("--containment", help="Also how many inputs of one norm lie in other norms' balls.")
    ] = False,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="LaTeX: a whole document instead of a fragment.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of all stored files.")] = False,
    validate: Annotated[bool, typer.Option("--validate", help="Check stored files against that schema.")] = False,
) -> None:
    """Collect runs into one table: TE, LB and UB per norm and union, the papers' figures beside ours.

    Merges shards and commands; two records that contradict each other stop it with exit code 1.

    Examples:

      robust report

      robust report --format latex --standalone --out table.tex

      robust report mnist-cnn-mmr-linf --norm linf
    """
    from robustcli.errors import UsageError
    from robustcli.norms import any_exponent, norm_name
    from robustcli.results.collect import collect, find_runs
    from robustcli.results.runs import runs_root
    from robustcli.results.validate import published_schema

    if schema:
        _deliver(json.dumps(published_schema(), indent=2) + "\n", out)
        return
    chosen = find_runs(run or [], runs or runs_root(), recipe)
    if validate:
        _validate(chosen)
        return
    kind = format or (SUFFIXES.get(out.suffix, Format.text) if out else Format.text)
    if standalone and kind is not Format.latex:
        raise UsageError("--standalone is for LaTeX only", "add --format latex")
    norms = [norm_name(any_exponent(item)) for item in norm or []]
    content = collect(chosen, dataset, norms, containment)
    _deliver(_rendered(kind, content, standalone, out is None), out)
    if content.empty:
        names = ", ".join(f"{item.name} seed {item.seed}" for item in content.empty)
        Console(stderr=True, soft_wrap=True).print(f"not evaluated yet: {names}", style="dim")


def _rendered(kind: Format, content: Content, standalone: bool, to_screen: bool) -> str:
    """The report in one of the formats."""
    from robustcli.results import latex, records, search_tables, tables, text

    if kind is Format.json:
        return records.json_text(content.report)
    if kind is Format.csv:
        return records.csv_text(content.report)
    printed = tables.tables(content.blocks) + tables.distance_tables(content.distances)
    printed += search_tables.attack_tables(content.distances) + search_tables.containment_tables(content.containment)
    if kind is Format.latex:
        return latex.latex(printed, standalone)
    if kind is Format.markdown:
        return text.markdown(printed)
    wide = to_screen and sys.stdout.isatty()
    return text.text(printed, max(text.WIDTH, shutil.get_terminal_size().columns) if wide else text.WIDTH)


def _deliver(document: str, out: Path | None) -> None:
    """To the file, whole or not at all, else to stdout."""
    from robustcli import files

    if out is None:
        sys.stdout.write(document)
        return
    files.write_text(out, document)
    Console(stderr=True, soft_wrap=True).print(f"wrote {out}", highlight=False)


def _validate(runs: list[RunFolder]) -> None:
    from robustcli.errors import DataError
    from robustcli.results.validate import validate

    checked = validate(runs)
    for where in checked.torn:
        Console(stderr=True, soft_wrap=True).print(f"torn line passed over: {where}", highlight=False)
    if checked.problems:
        raise DataError(
            "stored files do not fit the schema:\n  " + "\n  ".join(checked.problems),
            "move them away and ask the question again",
        )
    sys.stdout.write(f"{checked.files} files fit the schema\n")
