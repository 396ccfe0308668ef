"""The tables about adversarial inputs themselves: attacks against exact distances, and what two norms share."""

from __future__ import annotations

from collections.abc import Sequence

from robustcli.norms import NORMS
from robustcli.results.attacks import REPLAY
from robustcli.results.containment import ContainmentRow
from robustcli.results.perturbations import DistanceRow
from robustcli.results.published import box_text, eps_text
from robustcli.results.schema import Ratios, SearchFigures
from robustcli.results.tables import MISSING, Column, Line, Table, distance_text, percent

ATTACKS_LEGEND = (
    "mean: of an attack's distances, at the points where every attack found something. near: share in % of the points "
    "for which no attack found a nearer one. Then its distances over exact ones, at the points (ex) where these are "
    "proved, if it started from scratch (--each): median, 95th percentile, share in % above 1.1 and above 1.2."
)
CONTAINMENT_LEGEND = (
    "Of the n misclassified inputs found within eps in the norm above, the share in % that also lies within eps in the "
    f"other norms (001 Table 3). {MISSING}: none found."
)
TITLES = {"within": "inputs found within eps", "nearest": "nearest inputs within eps"}


def attack_tables(rows: Sequence[DistanceRow]) -> list[Table]:
    """A table per data set, kind of ball and norm: a line for each attack of a model."""
    told = [(row, norm) for row in rows for norm in row.attacks if _compared(row, norm)]
    keys = dict.fromkeys((row.dataset, row.boxed, norm) for row, norm in told)
    return [_attacks(*key, [row for row, norm in told if (row.dataset, row.boxed, norm) == key]) for key in keys]


def _compared(row: DistanceRow, norm: str) -> bool:
    """Whether there are attacks to compare: several, or one with exact distances."""
    attacks = row.attacks.get(norm, {})
    return len(attacks.keys() - {REPLAY}) > 1 or any(figures.ratio is not None for figures in attacks.values())


def _attacks(dataset: str, boxed: bool, norm: str, rows: Sequence[DistanceRow]) -> Table:
    heads = ("pts", "mean", "near", "ex", "median", "95 %", ">1.1", ">1.2")
    table = Table(
        title=f"{dataset}: attacks for the smallest distance, {norm}; balls {box_text(boxed)}",
        columns=[Column("", head) for head in heads],
        lines=[],
        eps={},
        legend=[ATTACKS_LEGEND],
        notes=[],
    )
    several = len(rows) > 1
    for row in rows:
        for place, (name, figures) in enumerate(row.attacks[norm].items()):
            label = f"{row.name} {name}" if several else name
            table.lines.append(Line(label, _cells(figures), starts=several and not place and bool(table.lines)))
    if not several:
        table.title = f"{rows[0].name} on {table.title}"
    return table


def _cells(figures: SearchFigures) -> list[str]:
    return [
        str(figures.asked),
        distance_text(figures.mean),
        percent(figures.nearest / figures.asked, 1),
        *_ratio_cells(figures.ratio),
    ]


def _ratio_cells(ratio: Ratios | None) -> list[str]:
    if ratio is None:
        return [MISSING] * 5
    return [
        str(ratio.points),
        _ratio_text(ratio.median),
        _ratio_text(ratio.percentile_95),
        percent(ratio.share_above_1_1, 1),
        percent(ratio.share_above_1_2, 1),
    ]


def _ratio_text(value: float | None) -> str:
    """Four digits of a ratio; nothing found at so many points is an infinite one."""
    return "inf" if value is None else f"{value:.3f}"


def containment_tables(rows: Sequence[ContainmentRow]) -> list[Table]:
    """A table per kind of input, data set, kind of ball and radii."""
    keys = dict.fromkeys((row.kind, row.dataset, row.boxed, tuple(row.eps.items())) for row in rows)
    return [
        _containment([row for row in rows if (row.kind, row.dataset, row.boxed, tuple(row.eps.items())) == key])
        for key in keys
    ]


def _containment(rows: Sequence[ContainmentRow]) -> Table:
    first = rows[0]
    norms = [norm for norm in NORMS if norm in first.eps]
    pairs = [(p, q) for p in norms for q in ("n", *(other for other in norms if other != p))]
    radii = ", ".join(f"{norm} eps {eps_text(first.eps[norm])}" for norm in norms)
    table = Table(
        title=f"{first.dataset}: {TITLES[first.kind]} that lie in other balls; {radii}; balls {box_text(first.boxed)}",
        columns=[Column(p, q) for p, q in pairs],
        lines=[],
        eps={norm: first.eps[norm] for norm in norms},
        legend=[CONTAINMENT_LEGEND],
        notes=[],
    )
    for row in rows:
        shown = [other for other in rows if other.name == row.name]
        name = f"{row.name} seed {row.seed}" if len(shown) > 1 and row.seed is not None else row.name
        cells = [str(row.found.get(p, 0)) if q == "n" else percent(row.shares.get(p, {}).get(q), 1) for p, q in pairs]
        left = ", ".join(f"{p} {row.replayed[p]}" for p in norms if row.replayed.get(p))
        table.lines.append(Line(name, cells, table.mark([f"replayed witnesses left out: {left}"] if left else [])))
    return table
