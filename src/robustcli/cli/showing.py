"""What the evaluation commands print: JSON documents, or tables at most 80 columns wide."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from robustcli.norms import NORMS

if TYPE_CHECKING:
    from robustcli.results.schema import ResultDocument, Summary, Verdict

    Verdicts = Mapping[int, Verdict | None]


def show_json(documents: Sequence[ResultDocument]) -> None:
    """The document, or an array of them when several norms were asked for."""
    texts = [document.model_dump_json(by_alias=True, indent=2) for document in documents]
    sys.stdout.write((texts[0] if len(texts) == 1 else "[" + ",\n".join(texts) + "]") + "\n")


def show_tables(documents: Sequence[ResultDocument], verdicts: Sequence[Verdicts]) -> None:
    """A row a norm, the union of all norms below, then what the command knows besides.

    Args:
        documents: one a norm.
        verdicts: of each, by point.
    """
    console = Console(highlight=False)
    if documents[0].question.eps is None:
        from robustcli.cli.distances import show_distances

        heads = ["norm", "points", "clean error", "mean lower", "mean upper", "exact", "seconds"]
        console.print(_table(heads, [_distance_row(document) for document in documents]))
        show_distances(documents, console)
        return
    heads = ["norm", "eps", "points", "clean error", "robust error", "unknown", "seconds"]
    rows = [_verdict_row(document) for document in documents]
    if {document.question.norm for document in documents} == set(NORMS):
        from robustcli.results.scores import union_summary

        union = union_summary([document.summary for document in documents], verdicts)
        rows.append(["union", "", *_figures(union)])
    console.print(_table(heads, rows))
    for document in documents:
        _show_stages(document, console)
    for document in documents:
        _show_attacks(document, console)
    for document in documents:
        _show_detection(document, console)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _verdict_row(document: ResultDocument) -> list[str]:
    question = document.question
    return [_norm(document), f"{question.eps:.4g}", *_figures(document.summary)]


def _norm(document: ResultDocument) -> str:
    return document.question.norm + ("" if document.question.boxed else " unboxed")


def _figures(summary: Summary) -> list[str]:
    return [
        str(summary.points),
        f"{100 * summary.test_error:.2f} %",
        _error(summary.robust_error_lower, summary.robust_error_upper),
        str(summary.verdicts.get("unknown", 0)),
        f"{summary.seconds:.1f}",
    ]


def _error(low: float | None, high: float | None) -> str:
    """The robust error as far as it is known; an attack alone gives no upper bound."""
    if low is None:
        return "-"
    if high is None:
        return f">= {100 * low:.2f} %"
    return f"{100 * low:.2f} %" if high - low < 1e-9 else f"{100 * low:.2f} - {100 * high:.2f} %"


def _distance_row(document: ResultDocument) -> list[str]:
    summary = document.summary
    figures = summary.distance or {}

    def number(key: str, scale: float = 1, form: str = ".4f") -> str:
        return format(scale * figures[key], form) if key in figures else "-"

    return [
        _norm(document),
        str(summary.points),
        f"{100 * summary.test_error:.2f} %",
        number("mean_lower"),
        number("mean_upper"),
        number("share_exact", 100, ".1f") + " %",
        f"{summary.seconds:.1f}",
    ]


def _show_stages(document: ResultDocument, console: Console) -> None:
    """What each stage was asked and decided, where there are several."""
    stages = document.summary.stages or {}
    if len(stages) < 2:
        return
    rows = [
        [name, str(done.asked), str(done.robust), str(done.vulnerable), f"{done.seconds:.1f}"]
        for name, done in stages.items()
    ]
    console.print()
    console.print(_table([f"stage, {_norm(document)}", "asked", "robust", "vulnerable", "seconds"], rows))


def _show_attacks(document: ResultDocument, console: Console) -> None:
    """What each attack was asked, broke and spent, where there are several."""
    attacks = document.summary.attacks or {}
    if len(attacks) < 2:
        return
    rows = [
        [
            name,
            str(done.asked),
            str(done.broken),
            str(done.first),
            f"{done.passes / max(done.asked, 1):.0f}",
            f"{done.seconds:.1f}",
            "-" if done.lower is None else f"{100 * done.lower:.2f} %",
        ]
        for name, done in attacks.items()
    ]
    heads = [f"attack, {_norm(document)}", "asked", "broken", "first", "passes each", "seconds", "alone"]
    console.print()
    console.print(_table(heads, rows))


def _show_detection(document: ResultDocument, console: Console) -> None:
    """How many inputs would be flagged at test time."""
    found = document.summary.detection
    if found is None:
        return
    kinds = {
        "test points": (found.clean, found.clean_flagged),
        "misclassified ones": (found.misclassified, found.misclassified_flagged),
        "adversarial inputs": (found.adversarial, found.adversarial_flagged),
    }
    rows = [
        [kind, str(count), str(flagged), f"{100 * flagged / count:.2f} %" if count else "-"]
        for kind, (count, flagged) in kinds.items()
    ]
    console.print()
    console.print(_table([f"detection, {_norm(document)}", "inputs", "flagged", "share"], rows))
