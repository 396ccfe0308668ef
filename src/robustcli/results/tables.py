"""From rows to tables: which rows stand together, which columns there are, what each cell says.

A table is one data set, one radius a norm and one kind of ball. Its cells are text; `text`, `markdown` and `latex`
print it. csv and JSON are written from the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from robustcli.norms import NORMS
from robustcli.results.perturbations import DistanceRow
from robustcli.results.published import box_text, eps_text
from robustcli.results.rows import Row
from robustcli.results.scores import UNION

MISSING = "–"
LEGEND = (
    "In %. TE: test error. LB: misclassified or broken by an attack or the verifier. UB: not proved robust. "
    f"{MISSING}: not measured."
)
UNION_LEGEND = "union: an error in any of l1, l2, linf."
DISTANCE_LEGEND = (
    "Means over the correctly classified points. LB: proved lower bound on the smallest perturbation that changes the "
    f"class. UB: nearest misclassified point found. ex: share in % where both are the exact distance. {MISSING}: none."
)
METHODS_LEGEND = (
    "Means over the correctly classified points of what each method of bound-distance proves alone, and of the best of "
    "them per point (neighb.: neighbours, univ.: universal)."
)
METHOD_HEADS = {"neighbours": "neighb.", "universal": "univ.", "kw": "KW"}
PER_TABLE = 3


@dataclass(frozen=True)
class Column:
    """A column of figures: `group` is the norm that neighbouring columns share, empty for none."""

    group: str
    head: str


@dataclass
class Line:
    """One row of cells. `mark` numbers the notes below the table; `quiet` rows (the papers') are set apart."""

    name: str
    cells: list[str]
    marks: list[int] = field(default_factory=list)
    quiet: bool = False
    starts: bool = False


@dataclass
class Table:
    """A printable table: `eps` gives the radius of a column group."""

    title: str
    columns: list[Column]
    lines: list[Line]
    eps: dict[str, float]
    legend: list[str]
    notes: list[str]

    def mark(self, notes: Iterable[str]) -> list[int]:
        """The numbers (from 1) of notes, new ones added."""
        numbers = []
        for note in notes:
            if note not in self.notes:
                self.notes.append(note)
            numbers.append(self.notes.index(note) + 1)
        return numbers


@dataclass
class Block:
    """Rows that stay together: a model's own, then those of the papers."""

    rows: list[Row]
    published: list[Row] = field(default_factory=list)

    @property
    def eps(self) -> dict[str, float]:
        return {norm: eps for row in self.rows for norm, eps in row.eps.items()}


def tables(blocks: Sequence[Block]) -> list[Table]:
    """The error tables: blocks on the same data and kind of ball share a table unless their radii differ."""
    groups: list[tuple[tuple[str, bool | None], dict[str, float], list[Block]]] = []
    for block in blocks:
        key = (block.rows[0].dataset, block.rows[0].boxed)
        for other, eps, members in groups:
            if other == key and all(eps.get(norm, value) == value for norm, value in block.eps.items()):
                eps.update(block.eps)
                members.append(block)
                break
        else:
            groups.append((key, dict(block.eps), [block]))
    return [_table(dataset, boxed, eps, members) for (dataset, boxed), eps, members in groups]


def _table(dataset: str, boxed: bool | None, eps: dict[str, float], blocks: Sequence[Block]) -> Table:
    rows = [row for block in blocks for row in (*block.rows, *block.published)]
    keys = [norm for norm in (*NORMS, UNION) if any(norm in row.lower or norm in row.upper for row in rows)]
    ends = [Column(norm, end) for norm in keys for end in ("LB", "UB")]
    theirs = {norm: value for block in blocks for row in block.published for norm, value in row.eps.items()}
    radii = {norm: {**theirs, **eps}[norm] for norm in NORMS if norm in keys and norm in {*theirs, *eps}}
    table = Table(
        title=f"{dataset}: {', '.join(f'{norm} eps {eps_text(value)}' for norm, value in radii.items())}; "
        f"balls {box_text(boxed)}",
        columns=[Column("", "pts"), Column("", "TE"), *ends],
        lines=[],
        eps=radii,
        legend=[LEGEND, UNION_LEGEND] if UNION in keys else [LEGEND],
        notes=[],
    )
    seeded = {row.name for block in blocks for row in block.rows if row.kind == "mean"}
    for block in blocks:
        for row in (*block.rows, *block.published):
            cells = [points_text(row), percent(row.test_error, 2)]
            for column in ends:
                value = (row.lower if column.head == "LB" else row.upper).get(column.group)
                cells.append(bound_text(row, value))
            table.lines.append(
                Line(
                    name=_name(row, row.name in seeded),
                    cells=cells,
                    marks=table.mark(row.notes),
                    quiet=row.kind == "published",
                    starts=row is block.rows[0] and bool(table.lines),
                )
            )
    return table


def _name(row: Row, seeded: bool) -> str:
    return {
        "run": f"{row.name} seed {row.seed}" if seeded else row.name,
        "mean": f"{row.name} mean of {row.seeds}",
        "sd": f"{row.name} ± sd",
        "published": row.name,
    }[row.kind]


def points_text(row: Row) -> str:
    """How many points; with their range when they are not the first ones."""
    if row.points is None:
        return row.range
    return str(row.points) if row.kind == "published" or row.range == f"0:{row.points}" else row.range


def percent(value: float | None, digits: int) -> str:
    """A fraction in percent; an en dash for what was not measured."""
    return MISSING if value is None else f"{100 * value:.{digits}f}"


def bound_text(row: Row, value: float | None) -> str:
    """A bound in percent: one digit up to 1000 points, else two; the papers' as printed, with at least one."""
    if value is None:
        return MISSING
    if row.kind == "published":
        return percent(value, 1 if round(100 * value, 1) == round(100 * value, 6) else 2)
    return percent(value, 2 if row.points is None or row.points > 1000 or row.kind == "sd" else 1)


def distance_tables(rows: Sequence[DistanceRow]) -> list[Table]:
    """The tables of smallest perturbations, a few norms a table."""
    found: list[Table] = []
    keys = sorted({(row.dataset, row.boxed) for row in rows})
    for dataset, boxed in keys:
        members = [row for row in rows if (row.dataset, row.boxed) == (dataset, boxed)]
        norms = [norm for norm in NORMS if any(norm in row.norms for row in members)]
        norms += sorted({norm for row in members for norm in row.norms} - set(NORMS))
        for start in range(0, len(norms), PER_TABLE):
            found.append(_distance_table(dataset, boxed, norms[start : start + PER_TABLE], members))
        found += [_methods_table(dataset, boxed, norm, members) for norm in norms if _methods(members, norm)]
    return found


def _methods(rows: Sequence[DistanceRow], norm: str) -> list[str]:
    """The lower bounds that any of the rows knows, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.methods.get(norm, {})))


def _methods_table(dataset: str, boxed: bool, norm: str, rows: Sequence[DistanceRow]) -> Table:
    """Each method's lower bound alone, and the best of all (000 Table 4)."""
    methods = _methods(rows, norm)
    table = Table(
        title=f"{dataset}: lower bounds by method, {norm}; {_kept(boxed)}",
        columns=[
            Column("", "pts"),
            *(Column("", METHOD_HEADS.get(name, name)) for name in methods),
            Column("", "best"),
        ],
        lines=[],
        eps={},
        legend=[METHODS_LEGEND],
        notes=[],
    )
    for row in rows:
        if norm in row.methods:
            means = [row.methods[norm].get(name, {}).get("mean") for name in methods]
            cells = [distance_text(value) for value in (*means, row.norms[norm].get("mean_lower"))]
            table.lines.append(Line(_distance_name(row, rows), [_distance_points(row), *cells]))
    return table


def _distance_table(dataset: str, boxed: bool, norms: Sequence[str], rows: Sequence[DistanceRow]) -> Table:
    columns = [Column(norm, head) for norm in norms for head in ("LB", "UB", "ex")]
    table = Table(
        title=f"{dataset}: smallest perturbations; {_kept(boxed)}",
        columns=[Column("", "pts"), *columns],
        lines=[],
        eps={},
        legend=[DISTANCE_LEGEND],
        notes=[],
    )
    for row in rows:
        if not set(norms) & set(row.norms):
            continue
        cells = [_distance_points(row)]
        for norm in norms:
            figures = row.norms.get(norm, {})
            cells += [
                distance_text(figures.get("mean_lower")),
                distance_text(figures.get("mean_upper")),
                percent(figures.get("share_exact"), 1),
            ]
        table.lines.append(Line(_distance_name(row, rows), cells, table.mark(_unbounded(row, norms))))
    return table


def _kept(boxed: bool) -> str:
    return f"points {box_text(boxed).replace('cut with', 'kept inside')}"


def _distance_points(row: DistanceRow) -> str:
    return str(row.points) if row.range == f"0:{row.points}" else row.range


def _distance_name(row: DistanceRow, rows: Sequence[DistanceRow]) -> str:
    """The name, with the seed where several rows share it."""
    several = sum(other.name == row.name for other in rows) > 1
    return f"{row.name} seed {row.seed}" if several and row.seed is not None else row.name


def _unbounded(row: DistanceRow, norms: Sequence[str]) -> list[str]:
    """Notes on the points that a mean leaves out."""
    notes = []
    for end, words in (("lower", "no smallest perturbation exists"), ("upper", "no misclassified point found")):
        counts = {norm: row.norms[norm].get(f"infinite_{end}", 0) for norm in norms if norm in row.norms}
        if any(counts.values()):
            listed = ", ".join(f"{norm} {count:g}" for norm, count in counts.items() if count)
            notes.append(f"{words}: {listed} points, left out of the mean")
    return notes


def distance_text(value: float | None) -> str:
    """A distance with three significant digits."""
    if value is None:
        return MISSING
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
