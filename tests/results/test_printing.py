"""Text, markdown, LaTeX, csv and JSON of the same content."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from robustcli.results import latex, records, tables, text
from robustcli.results.collect import Content, collect, find_runs
from robustcli.results.validate import published_schema
from tests.results.fabricate import answer, distance, published, question, recipe, trained


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """Two seeds in all norms with the paper's row, a changed recipe in linf only, and distances."""
    full = recipe("mnist-cnn-mmr-universal", published=[published(notes=["50 % of a_b & c"])])
    for seed in (0, 1):
        run = trained(tmp_path, full, seed)
        for norm, eps in (("l1", 1.0), ("l2", 0.3), ("linf", 0.1)):
            answer(run, question("mip-verify", norm, eps, model=f"net{seed}"), "rrvm" * 25)
    answer(trained(tmp_path, full, 0, ["training.epochs=5"]), question("attack", model="net2"), "vuuu")
    for norm in ("l1", "l2", "linf", "l1.5"):
        points = [distance(0, 0.5, 1.5), distance(1, 1, 1, exact=True), distance(2, 1, None)]
        answer(run, question("bound-distance", norm, None, model="net1d"), points)
    return collect(find_runs([], tmp_path))


def printed(content: Content) -> list[tables.Table]:
    return tables.tables(content.blocks) + tables.distance_tables(content.distances)


def test_text_fits_eighty_columns(content: Content) -> None:
    page = text.text(printed(content))
    assert max(map(len, page.splitlines())) <= 80
    assert "…" not in page
    assert "50 % of a_b & c" in page
    assert "mnist: l1 eps 1, l2 eps 0.3, linf eps 0.1; balls cut with the input box" in page


def test_cells_of_the_first_table(content: Content) -> None:
    table = printed(content)[0]
    assert [f"{column.group} {column.head}".strip() for column in table.columns] == [
        "pts", "TE", "l1 LB", "l1 UB", "l2 LB", "l2 UB", "linf LB", "linf UB", "union LB", "union UB",
    ]  # fmt: skip
    cells = {line.name: line.cells for line in table.lines}
    assert cells["mnist-cnn-mmr-universal seed 0"] == ["100", "25.00", *["50.0"] * 8]
    assert cells["mnist-cnn-mmr-universal ± sd"][1:4] == ["0.00", "0.00", "0.00"]
    theirs = ["1000", "3.04", "6.4", "20.8", "6.2", "10.4", "12.4", "17.0", "12.4", "20.8"]
    assert cells["paper 001 Table 2"] == theirs


def test_never_measured_is_a_dash_and_never_zero(content: Content) -> None:
    (line,) = [line for line in printed(content)[0].lines if "+" in line.name]
    assert line.cells == ["4", "0.00", *["–"] * 4, "25.0", "–", "–", "–"]
    figures = tables.percent(None, 2), tables.distance_text(None)
    assert figures == ("–", "–")


def test_the_papers_row_is_marked_with_its_differences(content: Content) -> None:
    table = printed(content)[0]
    line = next(line for line in table.lines if line.quiet)
    notes = [table.notes[number - 1] for number in line.marks]
    assert notes[0] == "points: first 1000 (ours: 0:100)"
    assert notes[1].startswith("certified ball: partly cut")
    assert re.search(r"paper 001 Table 2\s+†1,2,3", text.markdown([table]))


def test_bounds_have_the_digits_of_the_papers() -> None:
    from robustcli.results.rows import Row

    ours = Row(kind="run", name="n", dataset="d", eps={}, boxed=True, points=1000, range="0:1000")
    assert tables.bound_text(ours, 0.0564) == "5.6"
    assert tables.bound_text(ours.model_copy(update={"points": 10000}), 0.0564) == "5.64"
    theirs = ours.model_copy(update={"kind": "published"})
    assert [tables.bound_text(theirs, value / 100) for value in (6, 20.8, 29.65)] == ["6.0", "20.8", "29.65"]


def test_distance_table(content: Content) -> None:
    table, other = printed(content)[1:]
    assert table.lines[0].cells == ["3", *["0.75", "1.25", "33.3"] * 3]
    assert table.notes == ["no misclassified point found: l1 1, l2 1, linf 1 points, left out of the mean"]
    assert [column.group for column in other.columns] == ["", "l1.5", "l1.5", "l1.5"]


def test_markdown_rows_have_all_cells(content: Content) -> None:
    page = text.markdown(printed(content))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows[: len(printed(content)[0].lines) + 2]} == {12}
    assert r"a\_b" in page


@pytest.mark.parametrize("standalone", [False, True])
def test_latex_is_balanced_and_rectangular(content: Content, standalone: bool) -> None:
    page = latex.latex(printed(content), standalone)
    for begin, end in zip(re.findall(r"\\begin{(\w+)}", page), re.findall(r"\\end{(\w+)}", page), strict=True):
        assert page.count(f"\\begin{{{begin}}}") == page.count(f"\\end{{{begin}}}")
        assert page.count(f"\\begin{{{end}}}") == page.count(f"\\end{{{end}}}")
    bare = re.sub(r"\\[{}$%&#_]", "", page)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert ("\\documentclass" in page) is standalone
    bodies = re.findall(r"\\begin{tabular}{(l?r*)}(.*?)\\end{tabular}", page, re.DOTALL)
    assert len(bodies) == 3
    for columns, body in bodies:
        assert all(f"\\{rule}rule" in body for rule in ("top", "mid", "bottom"))
        for row in body.replace(r"\&", "").split(r"\\")[:-1]:
            spans = [int(size) - 1 for size in re.findall(r"\\multicolumn{(\d+)}", row)]
            assert row.count("&") + 1 + sum(spans) == len(columns)


def test_latex_specials_are_escaped() -> None:
    assert latex.escape(r"50 % of a_b & c\d {x} $1 #2 ~^") == (
        r"50 \% of a\_b \& c\textbackslash{}d \{x\} \$1 \#2 \textasciitilde{}\textasciicircum{}"
    )
    assert latex.prose("l1, linf. method.l1=3 eps_l2") == r"$\ell_1$, $\ell_\infty$. method.l1=3 eps\_l2"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(content: Content, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(latex.latex(printed(content), standalone=True))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_csv_has_one_line_a_row(content: Content) -> None:
    rows = list(csv.DictReader(io.StringIO(records.csv_text(content.report))))
    assert [row["kind"] for row in rows] == ["run", "run", "mean", "sd", "published", "run", "published", "distance"]
    assert rows[0]["union_upper"] == "0.5"
    assert rows[5]["linf_upper"] == ""
    assert float(rows[-1]["distance_l2_mean_lower"]) == pytest.approx(3 / 4)


def test_json_carries_everything_and_fits_its_schema(content: Content) -> None:
    document = json.loads(records.json_text(content.report))
    jsonschema.validate(document, published_schema()["report"])
    assert document["schema"] == "robustcli.report/1"
    source = document["rows"][0]["sources"][0]
    assert source["question"]["command"] == "mip-verify"
    assert source["methods"] == {"dual": 100}
    assert source["provenance"][0]["dataset"] == "mnist"
