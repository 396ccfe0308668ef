"""The cascade of `mip-verify`: the cheapest proof wins, the MIP sees only what is open, records say what decided."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from robustcli.balls import Ball
from robustcli.errors import RobustError, SolverError, UnknownNameError, UsageError
from robustcli.evaluation import exact
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.exact import ExactVerifier, Settings
from robustcli.networks.network import Network, margins
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import load
from tests.nets import convolutional, dense, golden_network
from tests.oracle import minimal_margin

QUIET = Settings(attack=None)


def ask(network: Network, points: torch.Tensor, eps: float, box=(0.0, 1.0), p: float = math.inf) -> Batch:
    """The points as a batch, each with its predicted class as its label."""
    logits = network(points)
    labels = logits.argmax(1)
    return Batch(
        indices=torch.arange(len(points)),
        points=points,
        labels=labels,
        predicted=labels,
        clean_margins=margins(logits, labels),
        ball=Ball.around(points, eps, p, box),
    )


def golden(eps: float) -> Batch:
    network, x, _ = golden_network()
    return ask(network, x, eps, None)


def answered(eps: float, settings: Settings, folder: Path | None = None) -> PointRecord:
    return ExactVerifier(golden_network()[0], settings, folder)(golden(eps))[0]


def test_bounds_decide_before_any_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "verify", None)
    monkeypatch.setattr(exact, "apgd_wide", None)
    record = answered(0.06, Settings())
    assert (record.verdict, record.method) == ("robust", "dual")
    assert record.margin_lower is not None
    assert record.margin_lower > 0


def test_the_mip_decides_what_bounds_leave_open() -> None:
    record = answered(0.1, QUIET)
    assert record.verdict == "robust"
    assert record.method in ("gurobi", "highs")
    assert record.details["solver"] == record.method
    assert [target["target"] for target in record.details["targets"]] == [0]  # class 2 was closed by the dual bound
    assert record.details["unstable"] == [2, 2]
    assert 1e-6 <= (record.margin_lower or 0) <= 0.05 + 1e-7


@pytest.mark.parametrize("attack", [True, False])
def test_a_witness_is_stored_and_misclassified(attack: bool, tmp_path: Path) -> None:
    record = answered(0.2, Settings() if attack else QUIET, tmp_path)
    assert record.verdict == "vulnerable"
    assert (record.method == "apgd-wide") == attack
    assert record.witness is not None
    x = torch.tensor(load(tmp_path / record.witness).witness)
    network, center, label = golden_network()
    assert float((x - center[0]).abs().max()) <= 0.2
    assert float(margins(network(x.unsqueeze(0)), label)) == record.margin_upper
    assert (record.margin_upper or 0) < 0
    assert (record.margin_lower or 0) <= -0.35625 + 1e-7


def test_verdicts_equal_enumeration() -> None:
    network = dense([2, 6, 5, 3], 2)
    points = torch.rand(12, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    batch = ask(network, points, 0.15)
    records = ExactVerifier(network, QUIET)(batch)
    truth = [
        minimal_margin(network, x, int(label), 0.15, math.inf, (0.0, 1.0))
        for x, label in zip(points, batch.labels, strict=True)
    ]
    assert [record.verdict for record in records] == ["robust" if margin > 0 else "vulnerable" for margin in truth]
    for record, margin in zip(records, truth, strict=True):
        assert (record.margin_lower or 0) <= margin + 1e-6


def test_one_point_at_a_time_changes_nothing() -> None:
    network = convolutional(1)
    points = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    verifier = ExactVerifier(network, Settings())
    whole = ask(network, points, 0.06)
    together = verifier(whole)
    for row, record in enumerate(together):
        part = ask(network, points[row : row + 1], 0.06)
        alone = verifier(Batch(**{**vars(part), "indices": torch.tensor([row])}))[0]
        assert (alone.verdict, alone.method) == (record.verdict, record.method)
        assert alone.margin_lower == pytest.approx(record.margin_lower, abs=1e-9)


def test_no_time_is_unknown_but_bounds_still_count() -> None:
    record = answered(0.1, Settings(time_limit=0, attack=None))
    assert (record.verdict, record.reason) == ("unknown", "time limit before the MIP")
    assert record.margin_lower == pytest.approx(-0.203331, abs=1e-4)  # CROWN; the KW dual: -0.284459
    assert answered(0.03, Settings(time_limit=0)).verdict == "robust"


def test_trouble_with_one_point_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RobustError("the encoding differs from the forward pass by 1")

    monkeypatch.setattr(exact, "verify", broken)
    record = answered(0.1, QUIET)
    assert (record.verdict, record.reason) == ("unknown", "the encoding differs from the forward pass by 1")


def test_solver_trouble_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SolverError("licence too small")

    monkeypatch.setattr(exact, "verify", broken)
    with pytest.raises(SolverError):
        answered(0.1, QUIET)


@pytest.mark.parametrize(("p", "name"), [(1.0, "l1"), (2.0, "l2")])
def test_other_norms_are_refused_by_name(p: float, name: str) -> None:
    network, x, _ = golden_network()
    with pytest.raises(UsageError, match=f"not {name}") as caught:
        ExactVerifier(network, QUIET)(ask(network, x, 0.1, None, p))
    assert caught.value.hint == f"try `robust certify --norm {name}`"


def test_an_unknown_solver_is_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'highs'"):
        ExactVerifier(golden_network()[0], Settings(solver="higs"))


def test_float32_network_is_verified_as_stored() -> None:
    network = dense([3, 6, 3], 5).to(torch.float32)
    double = network.double()
    points = torch.full((1, 3), 0.5, dtype=torch.float64)
    record = ExactVerifier(network, Settings())(ask(double, points, 0.05))[0]
    truth = minimal_margin(double, points[0], record.label, 0.05, math.inf, (0.0, 1.0))
    assert record.verdict == ("robust" if truth > 0 else "vulnerable")
