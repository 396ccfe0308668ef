"""`robust model` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from robustcli.cli.model import app
from robustcli.errors import CheckpointError, RobustError, UsageError
from robustcli.networks.architectures import build, names
from robustcli.networks.published import PUBLISHED


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("ROBUST_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(build("cnn", (1, 8, 8), 10).state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def robust(*arguments: str | Path) -> str:
    """Standard output of `robust model ...`; errors propagate."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, RobustError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_architectures() -> None:
    rows = json.loads(robust("architectures", "--json"))["architectures"]
    assert [row["name"] for row in rows] == names()
    assert {row["name"]: row["hidden_units"] for row in rows}["cnn"] == 4804
    rows = json.loads(robust("architectures", "--shape", "3x32x32", "--json"))["architectures"]
    assert {row["name"]: row["hidden_units"] for row in rows}["cnn"] == 6244
    rows = json.loads(robust("architectures", "--shape", "561", "--json"))["architectures"]
    assert {row["name"]: row["hidden_units"] for row in rows}["cnn"] is None
    text = robust("architectures")
    assert max(map(len, text.splitlines())) <= 80
    with pytest.raises(UsageError, match="not a shape"):
        robust("architectures", "--shape", "big")


def test_list() -> None:
    assert {row["name"] for row in json.loads(robust("list", "--json"))} >= set(PUBLISHED)
    assert "kw_mnist" in robust("list")


def test_import_and_show(file: Path, tmp_path: Path) -> None:
    text = robust("import", file, "--dataset", "digits")
    assert "500 digits test points; no published figure" in text
    run = tmp_path / "runs" / "mine" / "seed-0"
    for which in ("mine", "mine/seed-0", run, run.parent, run / "weights.safetensors"):
        shown = robust("show", which)
        assert "conv2d kernel 4 stride 2 padding 1" in shown
        assert "intact" in shown
    document = json.loads(robust("show", "mine", "--json"))
    assert [row["output"] for row in document["layers"]][:2] == [[16, 4, 4], [16, 4, 4]]
    assert sum(row["weights"] for row in document["layers"]) == 22_406
    assert document["dataset"] == "digits"


def test_import_prints_one_json_document(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    document = json.loads(robust("import", file, "--out", out, "--name", "other", "--no-check", "--json"))
    assert document["path"] == str(out)
    assert document["architecture"]["name"] == "cnn"
    assert out.exists()


def test_mean_and_std_go_together(file: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        robust("import", file, "--mean", "0.5")
    with pytest.raises(UsageError, match="--std"):
        robust("import", file, "--mean", "0.5", "--std", "half")
    with pytest.raises(UsageError, match="2 means"):
        robust("import", file, "--mean", "0.5,0.5", "--std", "0.5,0.5")
    robust("import", file, "--mean", "0.5", "--std", "1/4")
    assert "normalise mean 0.5 std 0.25" in robust("show", "mine")


def test_show_of_nothing(file: Path) -> None:
    robust("import", file, "--name", "mine-too")
    with pytest.raises(CheckpointError, match="did you mean 'mine-too'"):
        robust("show", "mine_too")
    with pytest.raises(CheckpointError, match="robust model import"):
        robust("show", file)
