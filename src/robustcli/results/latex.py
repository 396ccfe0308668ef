"""Tables as LaTeX with booktabs: fragments to `\\input`, or a document that compiles by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from robustcli.results.published import eps_text
from robustcli.results.tables import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "±": r"$\pm$",
    **{char: f"\\{char}" for char in "&%$#_"},
}
_MATH = {"l1": r"$\ell_1$", "l2": r"$\ell_2$", "linf": r"$\ell_\infty$", "eps": r"$\epsilon$"}
_WORD = re.compile(r"\b(l1|l2|linf|eps|l\d+(?:\.\d+)?)\b(?![-\w=\\]|\.\w)")

HEAD = r"""\documentclass[10pt]{article}
\usepackage[a4paper,margin=18mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\begin{document}
"""
TAIL = "\\end{document}\n"


def latex(tables: Sequence[Table], standalone: bool = False) -> str:
    """The tables one after the other; the preamble needs `booktabs` and T1 fonts.

    Args:
        standalone: wrap them into a document.
    """
    body = "\n".join(_one(table) for table in tables)
    return f"{HEAD}{body}{TAIL}" if standalone else f"% needs \\usepackage{{booktabs}}\n{body}"


def escape(text: str) -> str:
    """Text as LaTeX prints it literally."""
    return "".join(_SPECIAL.get(char, char) for char in text)


def prose(text: str) -> str:
    """Escaped text in which `l1`, `l2`, `linf` and `eps` are set as mathematics."""
    return _WORD.sub(lambda match: _norm(match[1]), escape(text))


def _norm(word: str) -> str:
    """`l2` and `l1.5` as mathematics."""
    return _MATH.get(word) or f"$\\ell_{{{word.removeprefix('l')}}}$"


def _one(table: Table) -> str:
    groups = [(group, len(list(members))) for group, members in groupby(table.columns, key=lambda item: item.group)]
    top, rules, place = [""], [], 2
    for group, size in groups:
        if group:
            radius = f" ($\\epsilon = {escape(eps_text(table.eps[group]))}$)" if group in table.eps else ""
            top.append(f"\\multicolumn{{{size}}}{{c}}{{{prose(group)}{radius}}}")
            rules.append(f"\\cmidrule(lr){{{place}-{place + size - 1}}}")
        else:
            top += [""] * size
        place += size
    lines = [
        r"\begin{table}[ht]",
        r"\centering\small\setlength{\tabcolsep}{3.5pt}\setlength{\belowcaptionskip}{4pt}",
        f"\\caption{{{prose(table.title)}.}}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *([_row(top), " ".join(rules)] if rules else []),
        _row(["model", *(escape(column.head) for column in table.columns)]),
        r"\midrule",
    ]
    for line in table.lines:
        if line.starts:
            lines.append(r"\addlinespace")
        marks = f"$^{{\\dagger {','.join(map(str, line.marks))}}}$" if line.marks else ""
        label = f"\\quad\\textit{{{escape(line.name)}}}" if line.quiet else escape(line.name)
        lines.append(_row([label + marks, *(escape(cell) for cell in line.cells)]))
    notes = [f"$^{{\\dagger {number}}}$ {prose(note)}" for number, note in enumerate(table.notes, start=1)]
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\medskip",
        r"\begin{minipage}{0.95\linewidth}\footnotesize",
        " \\\\\n".join([" ".join(map(prose, table.legend)), *notes]),
        r"\end{minipage}",
        r"\end{table}",
        "",
    ]
    return "\n".join(line for line in lines if line or line == lines[-1])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
