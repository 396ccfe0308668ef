"""`robust recipes`: what is printed, and the errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from robustcli.cli.recipes import REMEDY, app, data_state
from robustcli.data.checking import Status
from robustcli.errors import RecipeError, UnknownNameError
from robustcli.recipes.loading import from_text, load, names
from tests.recipes.examples import GOOD

runner = CliRunner()


def _run(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_list_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = _run("list").splitlines()
    assert len(lines) == len(names()) + 1
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert {line.split()[0] for line in lines[1:]} == set(names())


def test_list_filters_and_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROBUST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = json.loads(_run("list", "--dataset", "har", "--method", "plain", "--json"))
    assert [entry["name"] for entry in found] == ["har-fc500-plain"]
    assert found[0]["data"] == "missing"
    assert found[0]["published"][0]["test_error"] == 4.95
    assert json.loads(_run("list", "--dataset", "har", "--norm", "l2", "--json")) == []
    assert data_state("digits") == "found"
    assert data_state("svhn") == "missing"
    assert "robust data fetch svhn" in runner.invoke(app, ["list", "--dataset", "svhn"]).stderr


def test_every_state_of_data_has_a_remedy() -> None:
    assert set(get_args(Status)) - {"found", "verified", "unverified"} == set(REMEDY)


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [("--dataset", "minst", "mnist"), ("--method", "mmr-univ", "mmr-universal"), ("--norm", "lin", "linf")],
)
def test_unknown_filter_values(option: str, value: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
        _run("list", option, value)


def test_show_prints_the_file_or_what_it_means() -> None:
    raw = _run("show", "mnist-fc1-mmr-linf")
    assert raw.startswith("# ")
    assert "robust train --recipe mnist-fc1-mmr-linf" in raw
    resolved = _run("show", "mnist-fc1-mmr-linf", "--resolved")
    assert "tie_noise" in resolved
    assert from_text(resolved, "x") == load("mnist-fc1-mmr-linf")
    changed = _run("show", "mnist-fc1-mmr-linf", "--set", "training.epochs=3")
    assert from_text(changed, "x") == load("mnist-fc1-mmr-linf", ["training.epochs=3"])


def test_validate(tmp_path: Path) -> None:
    assert _run("validate") == f"{len(names())} recipes are valid\n"
    good, bad, worse = (tmp_path / f"{name}.yaml" for name in ("example", "bad", "worse"))
    good.write_text(GOOD)
    assert _run("validate", str(good)) == "1 recipe is valid\n"
    bad.write_text(GOOD.replace("lmbd", "lambda").replace("norm: linf\n", "norm: l9\n"))
    worse.write_text("[")
    with pytest.raises(RecipeError) as caught:
        _run("validate", str(good), str(bad), str(worse), "nonesuch")
    lines = caught.value.message.splitlines()
    assert lines[0] == "3 of 4 recipes are wrong"
    assert sum(line.startswith("bad.yaml: ") for line in lines) == 3
    assert sum(line.startswith("worse.yaml: ") for line in lines) == 1
    assert any("unknown recipe 'nonesuch'" in line for line in lines)
    assert caught.value.exit_code == 2


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from robustcli.cli.recipes import app; app(['list'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
