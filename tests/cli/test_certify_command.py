"""`robust certify`: its options, what it prints, and what it stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from robustcli.cli.app import run
from robustcli.results.runs import RunFolder
from robustcli.results.schema import json_schema
from robustcli.results.store import merge
from robustcli.results.validate import validate
from tests.classifiers import digits_run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return digits_run(tmp_path)


def certify(model: Path, *options: str) -> int:
    return run(["certify", "--checkpoint", str(model), "--points", "20", *options])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "foo"], "unknown method 'foo'"),
        (["--method", "crwn"], "did you mean 'crown'?"),
        (["--method", "dual", "--complete"], "give one of them"),
        (["--max-nodes", "5"], "add --complete"),
        (["--time-limit", "5", "--method", "dual"], "add --complete"),
        (["--method", "lp"], "--method dual --method lp"),
        (["--norm", "linf", "--method", "ball-offset"], "does not know linf"),
    ],
)
def test_bad_options_are_usage_errors(
    options: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(model, *options) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_union_is_one_more_row(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Robust in the union means robust in all three: its upper bound comes from the points, not from the other rows."""
    assert certify(model, "--norm", "union", "--eps", "0.08", "--complete", "--max-nodes", "200") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:5]] == ["l1", "l2", "linf", "union"]
    assert sum(line.startswith("stage, ") for line in lines) == 3
    assert "forecast:" in shown.err
    assert certify(model, "--norm", "union", "--eps", "0.08", "--complete", "--max-nodes", "200", "--json") == 0
    documents = json.loads(capsys.readouterr().out)
    assert [document["question"]["norm"] for document in documents] == ["l1", "l2", "linf"]
    folders = RunFolder(model.parent).question_dirs()
    verdicts = [{index: record.verdict for index, record in merge(folder).items()} for folder in folders]
    assert len(verdicts) == 3
    robust = sum(all(found[index] == "robust" for found in verdicts) for index in range(20))
    broken = sum(any(found[index] in ("vulnerable", "misclassified") for found in verdicts) for index in range(20))
    assert robust + broken == 20
    assert f"{100 * broken / 20:.2f} %" in lines[4]


def test_a_whole_run(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Complete, with detection; everything stored fits the published schema; a rerun finds its answers."""
    question = ["--norm", "linf", "--eps", "0.08", "--complete", "--max-nodes", "200", "--detect"]
    assert certify(model, *question) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "detection, linf" in shown
    assert certify(model, *question, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    Draft202012Validator(json_schema()["result"]).validate(document)
    summary = document["summary"]
    assert summary["verdicts"].keys() == {"robust", "vulnerable", "misclassified"}
    assert summary["robust_error_lower"] == summary["robust_error_upper"]
    decided = sum(stage["robust"] + stage["vulnerable"] for stage in summary["stages"].values())
    assert decided == summary["verdicts"]["robust"] + summary["verdicts"]["vulnerable"]
    # What is found by the attack counts as witness when detection is measured, and each is flagged.
    assert summary["detection"]["adversarial"] == summary["verdicts"]["vulnerable"]
    assert summary["detection"]["adversarial_flagged"] == summary["detection"]["adversarial"]
    assert document["question"]["settings"]["max_nodes"] == 200
    checked = validate([RunFolder(model.parent)])
    assert checked.problems == []
    assert checked.files == 3


def test_earlier_questions_about_bounds_are_found_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings of a question about bounds are the names of the bounds, as ever."""
    assert certify(model, "--norm", "linf", "--method", "dual", "--no-box", "--json") == 0
    assert json.loads(capsys.readouterr().out)["question"]["settings"] == {"methods": ["dual"]}
