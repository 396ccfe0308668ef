"""What `robust bound-distance` prints below its table: lower bounds by method, attacks, and histograms as bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from robustcli.results.attacks import REPLAY
from robustcli.results.schema import ResultDocument

BARS = " ▁▂▃▄▅▆▇█"
WORDS = {
    "region": "linear region",
    "boxed": "region in the box",
    "neighbours": "neighbouring regions",
    "universal": "universal radius",
    "kw": "KW bound",
    "crown": "CROWN",
    "alpha": "alpha-CROWN",
    "complete": "branch and bound",
}


def show_distances(documents: Sequence[ResultDocument], console: Console) -> None:
    """One block a document, at most 80 columns wide."""
    for document in documents:
        if document.summary.methods:
            console.print()
            console.print(methods_table(document))
        for table in attack_tables(document):
            console.print()
            console.print(table)
        if document.summary.histogram:
            console.print()
            _bars(document, console)


def methods_table(document: ResultDocument) -> Table:
    """Each lower bound alone, and the best of it and those above it."""
    heads = ("mean", "median", "exact", "best so far: mean", "exact")
    table = _table(f"lower bound, {_norm(document)}", heads)
    for name, figures in (document.summary.methods or {}).items():
        table.add_row(
            WORDS.get(name, name),
            *(_number(figures.get(key)) for key in ("mean", "median")),
            _percent(figures["share_exact"]),
            _number(figures.get("best_mean")),
            _percent(figures["best_share_exact"]),
        )
    return table


def attack_tables(document: ResultDocument) -> list[Table]:
    """What each attack found, where there are several; and how far from the exact distances it is."""
    searches = document.summary.searches or {}
    ratios = {name: figures.ratio for name, figures in searches.items() if figures.ratio is not None}
    norm, tables = _norm(document), []
    if ratios or len(searches.keys() - {REPLAY}) > 1:
        table = _table(f"attack, {norm}", ("asked", "found", "mean", "median", "nearest", "passes each", "seconds"))
        for name, one in searches.items():
            each = f"{one.passes / one.asked:.0f}"
            counts, lengths = (str(one.asked), str(one.found)), (_number(one.mean), _number(one.median))
            table.add_row(name, *counts, *lengths, str(one.nearest), each, f"{one.seconds:.1f}")
        tables.append(table)
    if ratios:
        table = _table(f"attack / exact, {norm}", ("points", "median", "95 %", "above 1.1", "above 1.2"))
        for name, ratio in ratios.items():
            shares = (_percent(ratio.share_above_1_1), _percent(ratio.share_above_1_2))
            table.add_row(name, str(ratio.points), _number(ratio.median), _number(ratio.percentile_95), *shares)
        tables.append(table)
    return tables


def _norm(document: ResultDocument) -> str:
    return document.question.norm + ("" if document.question.boxed else " unboxed")


def _table(first: str, heads: Sequence[str]) -> Table:
    """An empty table, its first column for names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _bars(document: ResultDocument, console: Console) -> None:
    found = document.summary.histogram
    assert found is not None
    most = max(*found.lower, *found.upper)
    for name, counts in (("lower", found.lower), ("upper", found.upper)):
        bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in counts)
        console.print(
            f"{name}  0 |{bars}| {found.last:.4g}   highest bar: {max(counts)} point{'s' * (max(counts) != 1)}",
            soft_wrap=True,
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
