"""What `data list` and `data check` say about the files that are there."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from robustcli.cli.data import app
from robustcli.data import specs
from robustcli.data.checking import check, survey
from robustcli.data.sources import SOURCES, File, Source
from robustcli.errors import DataError
from tests.data.formats import idx_bytes, pixels, write_idx

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUST_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("robustcli.data.sources.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch):
    """fashion-mnist declared as 6 + 4 rows, with the checksums of the files written here."""
    declared = specs.spec("fashion-mnist")
    tiny = specs.Spec(**{**declared.__dict__, "rows": {"train": 6, "test": 4}})
    monkeypatch.setitem(specs.SPECS, "fashion-mnist", tiny)
    files = write_idx(tmp_path / "fashion-mnist", "train", pixels(6, 28, 28), np.arange(6))
    files += write_idx(tmp_path / "fashion-mnist", "test", pixels(4, 28, 28), np.arange(4))
    pins = tuple(
        File(path.name, path.stat().st_size, "md5:" + hashlib.md5(path.read_bytes()).hexdigest(), ()) for path in files
    )
    monkeypatch.setitem(SOURCES, "fashion-mnist", Source(bundles=(pins,), folders=("fashion-mnist",)))
    return files


def test_official_files_are_verified(tiny_fashion):
    state = check("fashion-mnist")
    assert {split.status for split in state.splits.values()} == {"verified"}
    assert state.status == "verified"
    assert survey("fashion-mnist").status == "found"


def test_altered_files_are_damaged(tiny_fashion):
    """All 6 rows readable, one pixel changed: only the checksum can tell."""
    images = pixels(6, 28, 28)
    images[0, 0, 0] ^= 1
    tiny_fashion[0].write_bytes(idx_bytes(images))
    tiny_fashion[0].rename(tiny_fashion[0].with_suffix(""))
    assert check("fashion-mnist").splits["train"].status == "unverified"
    tiny_fashion[0].with_suffix("").unlink()
    write_idx(tiny_fashion[0].parent, "train", images, np.arange(6))
    found = check("fashion-mnist").splits["train"]
    assert found.status == "damaged"
    assert "train-images-idx3-ubyte.gz" in found.detail


def test_truncated_partial_and_missing(tiny_fashion):
    tiny_fashion[0].write_bytes(tiny_fashion[0].read_bytes()[:1000])
    write_idx(tiny_fashion[0].parent, "test", pixels(3, 28, 28), np.arange(3))
    state = check("fashion-mnist")
    assert state.splits["train"].status == "damaged"
    assert "train-images-idx3-ubyte.gz" in state.splits["train"].detail
    assert (state.splits["test"].status, state.splits["test"].rows) == ("partial", 3)
    assert survey("fashion-mnist").splits["test"].status == "partial"
    assert check("svhn").status == "missing"


def test_shipped_digits_are_verified():
    assert check("digits").status == "verified"


def test_list(tmp_path):
    result = RUNNER.invoke(app, ["list"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    for name in specs.names():
        assert name in result.stdout
    assert "4/255" in result.stdout
    table = [line for line in result.stdout.splitlines() if str(tmp_path) not in line]
    assert max(len(line) for line in table) <= 80


def test_json(tmp_path):
    np.savez(tmp_path / "test.npz", images=pixels(2, 4, 4), labels=np.arange(2))
    listed = json.loads(RUNNER.invoke(app, ["list", "digits", f"npz:{tmp_path}", "--json"]).stdout)
    assert [item["input_shape"] for item in listed] == [[1, 8, 8], [1, 4, 4]]
    checked = json.loads(RUNNER.invoke(app, ["check", "--json"]).stdout)
    assert {item["name"]: item["status"] for item in checked}["digits"] == "verified"


def test_check_fails_for_damage_and_for_named_missing_sets(tiny_fashion):
    assert RUNNER.invoke(app, ["check"]).exit_code == 0
    assert isinstance(RUNNER.invoke(app, ["check", "svhn"]).exception, DataError)
    tiny_fashion[1].write_bytes(b"")
    error = RUNNER.invoke(app, ["check"]).exception
    assert isinstance(error, DataError)
    assert "fashion-mnist train" in error.message


def test_fetch_of_shipped_data_needs_no_network():
    result = RUNNER.invoke(app, ["fetch", "digits"])
    assert result.exit_code == 0
    assert "shipped" in result.stdout
