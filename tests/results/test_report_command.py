"""`robust report` as a user meets it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from robustcli.cli.report import report
from robustcli.errors import ContradictionError, DataError, RobustError, UsageError
from tests.results.fabricate import answer, published, question, recipe, trained

APP = typer.Typer()
APP.command()(report)


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if isinstance(result.exception, RobustError):
        raise result.exception
    return result


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run = trained(tmp_path / "runs", recipe(published=[published()]))
    answer(run, question("attack"), "vuum")
    answer(run, question("certify"), "urum")
    return tmp_path / "runs"


def test_text_is_the_default(root: Path) -> None:
    result = call("--runs", root)
    assert result.exit_code == 0
    assert "toy" in result.stdout
    assert "50.0" in result.stdout


def test_runs_come_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_RUNS_DIR", str(root))
    assert call("toy").stdout == call("--runs", root).stdout


@pytest.mark.parametrize(
    ("name", "start"),
    [("t.md", "### mnist"), ("t.csv", "kind,name"), ("t.json", "{"), ("t.tex", "% needs"), ("t.txt", "mnist: l1")],
)
def test_the_ending_of_the_file_chooses_the_format(root: Path, tmp_path: Path, name: str, start: str) -> None:
    result = call("--runs", root, "--out", tmp_path / "out" / name)
    assert result.stdout == ""
    assert "wrote" in result.stderr
    assert (tmp_path / "out" / name).read_text().lstrip().startswith(start)


def test_standalone_is_a_document(root: Path) -> None:
    assert call("--runs", root, "--format", "latex", "--standalone").stdout.startswith("\\documentclass")
    with pytest.raises(UsageError, match="LaTeX only"):
        call("--runs", root, "--standalone")


def test_json_on_stdout_is_nothing_else(root: Path) -> None:
    trained(root, recipe("later"))
    result = call("--runs", root, "--format", "json")
    assert json.loads(result.stdout)["rows"][0]["recipe"] == "toy"
    assert "not evaluated yet: later seed 0" in result.stderr


def test_schema_and_validate(root: Path) -> None:
    assert {"result", "point", "epoch", "question", "report"} <= set(json.loads(call("--schema").stdout))
    assert call("--runs", root, "--validate").stdout == "6 files fit the schema\n"
    next(root.rglob("points.jsonl")).write_text('{"index": -1}\n')
    with pytest.raises(DataError, match=r"points\.jsonl:1: index"):
        call("--runs", root, "--validate")


def test_an_injected_contradiction_ends_with_1_and_both_lines(root: Path) -> None:
    run = root / "toy" / "seed-0" / "results"
    certified = next(run.glob("certify-*")) / "points.jsonl"
    certified.write_text(certified.read_text().replace('"unknown"', '"robust"', 1))
    with pytest.raises(ContradictionError) as caught:
        call("--runs", root)
    assert caught.value.exit_code == 1
    assert f"{certified}:1: point 0 robust" in str(caught.value)
    assert f"{next(run.glob('attack-*')) / 'points.jsonl'}:1: point 0 vulnerable" in str(caught.value)


def test_nothing_found_ends_with_3_and_what_to_do(root: Path, tmp_path: Path) -> None:
    for arguments, hint in (
        (["--runs", tmp_path / "none"], "robust train"),
        (["--runs", root, "--dataset", "gtsrb"], "--dataset"),
    ):
        with pytest.raises(DataError, match=hint) as caught:
            call(*arguments)
        assert caught.value.exit_code == 3
    trained(tmp_path / "fresh", recipe())
    with pytest.raises(DataError, match="robust attack"):
        call("--runs", tmp_path / "fresh")


def test_unknown_norm_and_run(root: Path) -> None:
    with pytest.raises(UsageError, match="norm 'lin'"):
        call("--runs", root, "--norm", "lin")
    with pytest.raises(UsageError, match="did you mean 'toy'"):
        call("toi", "--runs", root)


def test_a_file_that_cannot_be_written_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write"):
        call("--runs", root, "--out", tmp_path / "file" / "table.tex")
    assert subprocess.run(["ls", "-A", tmp_path], capture_output=True, text=True, check=True).stdout == "file\nruns\n"
