"""`robust bound-distance`: its options, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustcli.cli.app import run
from robustcli.cli.bound_distance import budget, size
from robustcli.errors import UsageError
from tests.classifiers import digits_run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return digits_run(tmp_path)


def test_budget() -> None:
    assert budget("0") == 0
    assert budget("5") == 5
    assert budget("all") is None
    for text in ("-1", "1.5", "many", ""):
        with pytest.raises(UsageError, match="number of regions"):
            budget(text)


def test_size() -> None:
    assert size("512M") == size("512") == size("512 MiB") == 512 * 2**20
    assert size("1.5g") == 3 * 2**29
    assert size("64kB") == 2**16
    for text in ("0", "M", "-5M", "5T", "much"):
        with pytest.raises(UsageError, match="amount of memory"):
            size(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--regions", "few"], "number of regions"),
        (["--memory", "0"], "amount of memory"),
        (["--norm", "0.5"], "not a norm"),
        (["--method", "kww"], "kww"),
        (["--memory", "1K"], "too little memory"),
        (["--norm", "1.01"], "p = 1.01"),
        (["--attack", "apgd-ce"], "looks for any misclassified point of a ball"),
        (["--attack", "nearst"], "did you mean 'nearest'?"),
        (["--norm", "linf", "--attack", "ddn"], "attack ddn does not know linf"),
        (["--attack", "nearest", "--targets", "3"], "none of nearest has 'targets'"),
        (["--steps", "5"], "add --attack NAME"),
        (["--no-attack", "--attack", "fab"], "--no-attack goes with neither"),
    ],
)
def test_bad_options_are_usage_errors(
    options: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bound-distance", "--checkpoint", str(model), "--points", "2", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_whole_run(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, the bounds by method, and the records that a rerun finds."""
    question = ["bound-distance", "--checkpoint", str(model), "--points", "6", "--norm", "l2", "--regions", "1"]
    assert run([*question, "--no-attack", "--memory", "64M"]) == 0
    shown = capsys.readouterr().out
    assert "neighbouring regions" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert run([*question, "--no-attack", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["question"]["settings"]["regions"] == 1
    means = {name: figures["mean"] for name, figures in document["summary"]["methods"].items()}
    assert means["region"] <= means["boxed"] <= means["neighbours"] <= document["summary"]["distance"]["mean_lower"]
    assert means["kw"] <= document["summary"]["distance"]["mean_lower"]
    assert sum(document["summary"]["histogram"]["lower"]) == document["summary"]["distance"]["points"]


def test_attacks_by_name(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every attack's distances beside the exact ones; each starts from scratch, so that ratios are its own."""
    question = ["bound-distance", "--checkpoint", str(model), "--points", "8", "--norm", "linf", "--regions", "20"]
    assert run([*question, "-a", "fab", "-a", "quick", "--each", "--steps", "20", "--targets", "2"]) == 0
    shown = capsys.readouterr().out
    assert "attack, linf" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert run([*question, "-a", "fab", "-a", "quick", "--each", "--steps", "20", "--targets", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    searches = summary["searches"]
    assert list(searches) == ["fab", "nearest"]
    assert {one["asked"] for one in searches.values()} == {summary["distance"]["points"]}
    for one in searches.values():
        assert one["mean"] >= summary["distance"]["mean_upper"] - 1e-9
        assert one["ratio"] is None or min(one["ratio"]["curve"]) >= 1
    assert (summary["distance"]["share_exact"] > 0) == ("attack / exact, linf" in shown)
    assert run([*question, "-a", "fab", "--restarts", "0", "--steps", "20", "--targets", "2"]) == 0
