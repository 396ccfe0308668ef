"""Import from file to finished run, with the clean error measured on the embedded data set."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from robustcli.errors import CheckpointError, UsageError
from robustcli.networks import importing
from robustcli.networks.architectures import build
from robustcli.networks.checkpoints import load
from robustcli.networks.importing import CleanCheck, check_clean_error, import_network
from robustcli.networks.network import Network
from robustcli.networks.origin import Origin


@pytest.fixture
def constant() -> Network:
    """A net for digits that always answers 3."""
    network = build("2x100", (1, 8, 8), 10)
    for weight in network.parameters():
        weight.data.zero_()
    network.get_parameter("layers.5.bias").data[3] = 1
    return network


@pytest.fixture
def file(tmp_path: Path, constant: Network) -> Path:
    path = tmp_path / "mine.pth"
    torch.save(constant.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("ROBUST_DATA_DIR", raising=False)


def share_of_threes() -> float:
    from robustcli.data.datasets import load as load_split

    return float((load_split("digits", "test").labels == 3).mean())


def test_an_import_is_a_finished_run(file: Path, tmp_path: Path, constant: Network) -> None:
    imported = import_network(file, dataset="digits")
    assert imported.path == tmp_path / "runs" / "mine" / "seed-0" / "weights.safetensors"
    checkpoint = load(imported.path, expected="2x100")
    assert checkpoint.network.weights_hash() == constant.weights_hash()
    assert checkpoint.metadata.dataset == "digits"
    assert re.fullmatch(r"file:mine\.pth sha256:[0-9a-f]{64}", checkpoint.metadata.source or "")
    assert checkpoint.metadata.figures["clean_error"] == pytest.approx(1 - share_of_threes())


def test_the_clean_error_is_that_of_float64_margins(constant: Network) -> None:
    check = check_clean_error(constant, "digits", 0.5)
    assert check.measured == pytest.approx(1 - share_of_threes())
    assert check.points == 500
    assert not check.agrees


def test_ties_count_as_errors(constant: Network) -> None:
    constant.get_parameter("layers.5.bias").data.zero_()
    assert check_clean_error(constant, "digits").measured == 1


@pytest.mark.parametrize(
    ("check", "agrees"),
    [
        (CleanCheck(0.0180, 10_000, 0.018), True),
        (CleanCheck(0.0084, 10_000, 0.008), True),
        (CleanCheck(0.0190, 10_000, 0.018), False),
        (CleanCheck(0.19, 200, 0.2173, partial=True), True),
        (CleanCheck(None, 0, 0.018, "no data"), True),
        (CleanCheck(0.5, 500, None), True),
    ],
)
def test_when_figures_agree(check: CleanCheck, agrees: bool) -> None:
    assert check.agrees == agrees


def test_another_clean_error_than_published_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = type("Known", (), {})()
    known.origin = Origin("known", "digits", figures={"clean_error": 0.02}, where="Table 1")
    known.architecture, known.dataset = "2x100", "digits"
    monkeypatch.setattr(importing, "by_sha256", lambda digest: known)
    with pytest.raises(CheckpointError, match=r"published 2\.00 %"):
        import_network(file)
    assert not Path(os.environ["ROBUST_RUNS_DIR"]).exists()
    imported = import_network(file, check=False)
    assert imported.metadata.figures == {"published_clean_error": 0.02}
    assert imported.check.reason == "--no-check"


def test_missing_data_are_said_and_do_not_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.save(build("har", (561,), 6).state_dict(), tmp_path / "h.pt")
    imported = import_network(tmp_path / "h.pt", dataset="har")
    assert imported.check.measured is None
    assert "har" in (imported.check.reason or "")


def test_another_network_is_not_overwritten(file: Path, tmp_path: Path, constant: Network) -> None:
    first = import_network(file, check=False)
    assert import_network(file, check=False).path == first.path
    constant.get_parameter("layers.5.bias").data[4] = 2
    torch.save(constant.state_dict(), file)
    with pytest.raises(UsageError, match="holds another network"):
        import_network(file, check=False)
    import_network(file, check=False, replace_other=True)
    assert load(first.path).network.weights_hash() == constant.weights_hash()


def test_a_network_for_other_data_is_refused(file: Path) -> None:
    with pytest.raises(UsageError, match="no named architecture"):
        import_network(file, dataset="mnist")


def test_names_that_are_no_folder(file: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a run folder"):
        import_network(file, name="../mine")


@pytest.mark.long
def test_kw_mnist_has_its_published_error(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """003 Table 1: 1.80 % on all 10,000 points; needs kw_mnist.json and .npz in ROBUST_TEST_DATA/models."""
    bundle = real_data / "models" / "kw_mnist.json"
    if not bundle.exists():
        pytest.skip("kw_mnist.json is not in ROBUST_TEST_DATA/models")
    monkeypatch.setenv("ROBUST_DATA_DIR", str(real_data))
    assert import_network(bundle).check == CleanCheck(0.018, 10_000, 0.018)
