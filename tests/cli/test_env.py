"""`robust env` tells what is here, as a table and as JSON."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from robustcli.cli import env as module
from robustcli.mip import gurobi, highs
from robustcli.mip.solver import Licence

app = typer.Typer()
app.command()(module.env)


def called(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == 0, found.output
    return found.stdout


def test_json_has_every_part() -> None:
    found = json.loads(called("--json"))
    assert {"versions", "hardware", "devices", "solvers", "data", "folders"} <= set(found)
    assert found["devices"][0]["device"] == "cpu"
    assert {solver["name"]: solver["usable"] for solver in found["solvers"]}["highs"] is True
    assert {item["name"]: item["status"] for item in found["data"]}["digits"] != "missing"


def test_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = called().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for word in ("robustcli", "torch", "cpu", "highs", "gurobi", "digits", "runs folder"):
        assert word in text


def test_missing_and_expired_solvers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gurobi, "_probe", lambda: Licence("expired", "License expired 2024-01-01"))
    monkeypatch.setattr(highs, "_licence", lambda: Licence("missing", "not installed; pip install highspy"))
    text = called()
    assert "License expired 2024-01-01" in text
    assert "not installed; pip install highspy" in text
