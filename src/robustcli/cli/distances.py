"""What `robust bound-distance` prints below its table: lower bounds by method, and histograms as bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

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
}


def show_distances(documents: Sequence[ResultDocument], console: Console) -> None:
    """One block a document, at most 80 columns wide."""
    for document in documents:
        if document.summary.methods:
            console.print()
            console.print(methods_table(document))
        if document.summary.histogram:
            console.print()
            _bars(document, console)


def methods_table(document: ResultDocument) -> Table:
    """Each lower bound alone, and the best of it and those above it."""
    norm = document.question.norm + ("" if document.question.boxed else " unboxed")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"lower bound, {norm}", no_wrap=True)
    for head in ("mean", "median", "exact", "best so far: mean", "exact"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, figures in (document.summary.methods or {}).items():
        table.add_row(
            WORDS.get(name, name),
            *(_number(figures.get(key)) for key in ("mean", "median")),
            _percent(figures["share_exact"]),
            _number(figures.get("best_mean")),
            _percent(figures["best_share_exact"]),
        )
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
