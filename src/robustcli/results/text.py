"""Tables as plain text for a terminal, and as markdown."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from robustcli.results.tables import Line, Table

WIDTH = 80
NARROWEST_NAME = 12
ROOMY_NAME = 22


def text(tables: Sequence[Table], width: int = WIDTH) -> str:
    """All tables, each with its legend and notes, no line longer than `width` (unless the figures alone need more)."""
    return "\n\n".join(_one(table, width) for table in tables) + "\n"


def _one(table: Table, width: int) -> str:
    grouped = any(column.group for column in table.columns)
    heads = [f"{column.group}\n{column.head}" if grouped else column.head for column in table.columns]
    widths = [
        max(len(part) for part in (*head.split("\n"), *(line.cells[place] for line in table.lines)))
        for place, head in enumerate(heads)
    ]
    room = max(NARROWEST_NAME, width - sum(size + 1 for size in widths))
    firsts = [
        place > 0 and table.columns[place - 1].group != column.group for place, column in enumerate(table.columns)
    ]
    spread = room - sum(firsts) >= ROOMY_NAME
    grid = Grid(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="")
    grid.add_column("\nmodel" if grouped else "model", no_wrap=True)
    for place, head in enumerate(heads):
        widths[place] += spread and firsts[place]
        grid.add_column(head, justify="right", no_wrap=True, min_width=widths[place])
    room = max(NARROWEST_NAME, width - sum(size + 1 for size in widths))
    for place, line in enumerate(table.lines):
        last = place + 1 == len(table.lines)
        wrapped = "\n".join(textwrap.wrap(name(line), room, subsequent_indent="  ") or [""])
        grid.add_row(wrapped, *line.cells, end_section=not last and table.lines[place + 1].starts)
    canvas = io.StringIO()
    Console(file=canvas, width=max(width, room + sum(size + 1 for size in widths)), color_system=None).print(grid)
    body = "\n".join(row.rstrip() for row in canvas.getvalue().rstrip().split("\n"))
    below = [*table.legend, *(f"†{number} {note}" for number, note in enumerate(table.notes, start=1))]
    wrapped_below = [textwrap.fill(item, width, subsequent_indent="   " * item.startswith("†")) for item in below]
    return "\n".join([textwrap.fill(table.title, width), "", body, "", *wrapped_below])


def name(line: Line) -> str:
    """The name with the numbers of its notes."""
    own = f"  {line.name}" if line.quiet else line.name
    return f"{own} †{','.join(map(str, line.marks))}" if line.marks else own


def markdown(tables: Sequence[Table]) -> str:
    """The tables as GitHub-flavoured markdown, a heading each."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _markdown(table: Table) -> str:
    heads = ["model", *(f"{column.group} {column.head}".strip() for column in table.columns)]
    rows = [[name(line).strip(), *line.cells] for line in table.lines]
    body = [
        _markdown_row(heads),
        _markdown_row(["---", *["---:"] * len(table.columns)]),
        *(_markdown_row([_escaped(cell) for cell in row]) for row in rows),
    ]
    below = [*table.legend, *(f"†{number} {_escaped(note)}" for number, note in enumerate(table.notes, start=1))]
    return "\n".join([f"### {_escaped(table.title)}", "", *body, "", "  \n".join(below)])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(value: str) -> str:
    return "".join(f"\\{char}" if char in "\\|*_`<>[]" else char for char in value)
