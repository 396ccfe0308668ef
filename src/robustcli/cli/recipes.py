"""`robust recipes`: which recipes there are, what is in them, whether they hold together."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from robustcli.errors import RecipeError, UsageError
from robustcli.recipes import catalogue
from robustcli.recipes.loading import dump, find, load
from robustcli.recipes.model import Recipe

app = typer.Typer(no_args_is_help=True, help="List, show and check recipes.")

REMEDY = {
    "missing": "get it with `robust data fetch {}`",
    "partial": "train on the part with --set partial=true, or `robust data fetch {}`",
    "damaged": "see `robust data check {}`",
}

COLUMNS = ("recipe", "net", "method", "norm", "paper", "data")
WIDEST = 1000
"""Columns of a terminal that holds every table."""

Json = Annotated[bool, typer.Option("--json", help="Print only a JSON array.")]


@app.command("list")
def list_(
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Only this data set.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Only this method: plain, at, kw, mmr, mmr+at, mmr-dd, mmr-universal, cross-lipschitz.",
        ),
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", "-n", help="Only recipes evaluated in l1, l2, linf or union.")
    ] = None,
    json: Json = False,
) -> None:
    """The shipped recipes, and whether their data was found on this machine."""
    recipes = catalogue.choose([load(name) for name in catalogue.names()], dataset=dataset, method=method, norm=norm)
    state = {name: data_state(name) for name in {recipe.dataset for recipe in recipes}}
    if json:
        typer.echo(jsonlib.dumps([_entry(recipe, state[recipe.dataset]) for recipe in recipes], indent=2))
        return
    console = Console(highlight=False)
    rows = [_row(recipe, state[recipe.dataset]) for recipe in recipes]
    table = _table(COLUMNS, rows)
    if console.measure(table, options=console.options.update(width=WIDEST)).maximum > console.width:
        table = _table([name for name in COLUMNS if name != "net"], rows)  # the recipe's name tells the network
    console.print(table)
    notes = Console(stderr=True, highlight=False)
    notes.print(f"{len(recipes)} recipes; `robust recipes show NAME` prints one", soft_wrap=True)
    for name in sorted(name for name, here in state.items() if here != "found"):
        notes.print(f"{name}: data {state[name]}; {REMEDY[state[name]].format(name)}", soft_wrap=True)


def _row(recipe: Recipe, here: str) -> dict[str, str]:
    return {
        "recipe": recipe.name,
        "net": recipe.architecture,
        "method": catalogue.method_label(recipe),
        "norm": recipe.norm,
        "paper": recipe.origin.removeprefix("paper-"),
        "data": here if here == "found" else f"[yellow]{here}[/]",
    }


def _table(columns: Sequence[str], rows: list[dict[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A shipped recipe, or a YAML file.")],
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default written out.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value, e.g. training.epochs=20; implies --resolved."
        ),
    ] = None,
) -> None:
    """Print a recipe as YAML: the file as it is, or what it means with all defaults."""
    if resolved or overrides:
        text = dump(load(recipe, overrides or ()))
    else:
        path = find(recipe)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read {path}: not UTF-8 text, or not readable") from error
    typer.echo(text.rstrip("\n"))


@app.command()
def validate(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="NAME|PATH", help="Recipes to check. (default: all shipped)")
    ] = None,
) -> None:
    """Check recipes: keys, types, ranges, and whether norms, radii, network and data set go together."""
    wanted = recipes or catalogue.names()
    if not wanted:
        raise UsageError(f"no recipes in {catalogue.recipes_dir()}")
    wrong = []
    for name in wanted:
        try:
            load(name)
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise RecipeError(f"{len(wrong)} of {len(wanted)} recipes are wrong\n" + "\n".join(wrong))
    typer.echo(f"{len(wanted)} {'recipe is' if len(wanted) == 1 else 'recipes are'} valid")


def data_state(dataset: str) -> str:
    """`found`, `partial` (fewer rows than the official split), `missing` or `damaged`, by a glance at the files."""
    from robustcli.data.checking import survey

    return survey(dataset).status


def _entry(recipe: Recipe, data: str) -> dict[str, Any]:
    """A recipe as `recipes list --json` gives it."""
    keys = ("name", "summary", "origin", "dataset", "architecture", "norm", "eps", "published")
    content = recipe.model_dump(mode="json", include=set(keys))
    return {key: content[key] for key in keys} | {"method": catalogue.method_label(recipe), "data": data}
