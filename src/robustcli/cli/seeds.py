"""What several seeds of one training have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from robustcli.results.seeds import spread

if TYPE_CHECKING:
    from robustcli.training.runs import Outcome


def figures(outcome: Outcome) -> dict[str, float]:
    """The errors of a finished run by name, as fractions."""
    found = {name: outcome.figures.get(f"{name}_error") for name in ("test", "train")}
    told = {f"{name} error": value for name, value in found.items() if value is not None}
    last, evaluated = outcome.last, outcome.evaluations[-1:]
    if last is not None:
        told |= {f"held out, {norm}": value for norm, value in last.certified_error.items()}
    for record in evaluated:
        told |= {f"KW bound, {norm}": value for norm, value in record.upper.items() if record.epoch == outcome.epochs}
    return told


def over(outcomes: list[Outcome]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1; null for one run) of the figures that all runs have."""
    each = [figures(outcome) for outcome in outcomes]
    shared = [name for name in each[0] if all(name in other for other in each)]
    spreads = {name: spread([found[name] for found in each]) for name in shared}
    return {kind: {name: found[place] for name, found in spreads.items()} for place, kind in enumerate(("mean", "sd"))}


def table(seeds: list[int], outcomes: list[Outcome]) -> Table:
    """A line for each seed, then mean and standard deviation, in percent."""
    ends = over(outcomes)
    names = list(ends["mean"])
    printed = Table("seed", box=None, pad_edge=False, header_style="bold")
    for name in names:
        printed.add_column(f"{name} %", justify="right")
    rows: dict[str, Mapping[str, float | None]] = {
        str(seed): figures(outcome) for seed, outcome in zip(seeds, outcomes, strict=True)
    }
    for label, found in (rows | ends).items():
        values = [found[name] for name in names]
        printed.add_row(label, *("" if value is None else f"{100 * value:.2f}" for value in values))
    return printed
