"""`robust attack`: every `vulnerable` has a stored witness that an independent program confirms; no more is claimed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.registry import ROWS
from robustcli.attacks.settings import FgsmSettings
from robustcli.balls import Ball
from robustcli.errors import DataError
from robustcli.evaluation.attack import Attacker, Settings
from robustcli.evaluation.batch import Batch
from robustcli.networks.checkpoints import Metadata, save
from robustcli.networks.network import Network, margins
from robustcli.norms import exponent
from robustcli.results.schema import PointRecord, Question
from robustcli.results.store import PointStore, write_question
from robustcli.results.witnesses import all_witnesses, load, store
from tests.nets import convolutional

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify_witnesses.py"
QUICK = Settings.only("apgd-wide", steps=25, restarts=2, targets=1)
EPS = {"l1": 0.12, "l2": 0.06, "linf": 0.012}


@pytest.fixture
def network() -> Network:
    """A small float32 net with several classes and a normalise layer."""
    network = convolutional(4, normalise=True).float()
    x = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network.layers[-1].bias.data -= network(x).mean(0)
    return network.requires_grad_(False)


def batch(network: Network, norm: str, eps: float, first: int = 0, count: int = 12) -> Batch:
    x = torch.rand(40, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[first : first + count]
    logits = network.double()(x)
    labels = logits.argmax(1)
    ball = Ball.around(x, eps, exponent(norm), (0.0, 1.0))
    return Batch(torch.arange(first, first + count), x, labels, labels, margins(logits, labels), ball)


def in_order(records: Iterable[PointRecord]) -> list[PointRecord]:
    """By the index of the point."""
    return sorted(records, key=lambda record: record.index)


@pytest.mark.parametrize("norm", list(EPS))
def test_records_say_what_was_found(network: Network, norm: str, tmp_path: Path) -> None:
    asked = batch(network, norm, EPS[norm])
    records = in_order(Attacker(network, QUICK, tmp_path)(asked))
    assert [record.index for record in records] == list(range(12))
    assert {record.verdict for record in records} == {"vulnerable", "unknown"}
    for row, record in enumerate(records):
        if record.verdict == "unknown":
            assert record.reason == "attack failed"
            assert record.witness is None
            assert record.details["smallest_margin"] <= float(asked.clean_margins[row])
            continue
        assert record.witness is not None
        witness = load(tmp_path / record.witness)
        x = torch.from_numpy(witness.witness).unsqueeze(0)
        assert bool(asked.ball.take(slice(row, row + 1)).contains(x))
        assert float(margins(network.double()(x), asked.labels[row : row + 1])) == pytest.approx(record.margin_upper)
        assert (record.margin_upper or 0) < 0
        assert np.array_equal(witness.point, asked.points[row].numpy())


def test_verdicts_do_not_depend_on_batches(network: Network) -> None:
    whole = in_order(Attacker(network, QUICK)(batch(network, "l2", 0.06)))
    parts = [
        *in_order(Attacker(network, QUICK)(batch(network, "l2", 0.06, 0, 5))),
        *in_order(Attacker(network, QUICK)(batch(network, "l2", 0.06, 5, 7))),
    ]
    assert [record.verdict for record in parts] == [record.verdict for record in whole]
    for one, other in zip(parts, whole, strict=True):
        assert one.margin_upper == pytest.approx(other.margin_upper, abs=1e-9)


def test_known_witnesses_are_replayed(network: Network, tmp_path: Path) -> None:
    """What one question found answers the next: a larger ball, another norm; not another network's witnesses."""
    first = in_order(Attacker(network, QUICK, tmp_path)(batch(network, "linf", EPS["linf"])))
    fallen = [record.index for record in first if record.verdict == "vulnerable"]
    blind = Settings.only("apgd-wide", steps=1, restarts=1, targets=0, step_size=1e-12)
    again = in_order(Attacker(network, blind, tmp_path)(batch(network, "linf", 1.5 * EPS["linf"])))
    assert [record.index for record in again if record.verdict == "vulnerable"] == fallen
    assert {record.method for record in again if record.verdict == "vulnerable"} == {"replay"}
    # An linf ball of radius r lies in the l2 ball of radius r sqrt(64).
    spread = in_order(Attacker(network, blind, tmp_path)(batch(network, "l2", 8 * EPS["linf"] + 1e-6)))
    assert [record.index for record in spread if record.verdict == "vulnerable"] == fallen
    other = convolutional(5, normalise=True).float().requires_grad_(False)
    assert all(record.method == "apgd-wide" for record in Attacker(other, blind, tmp_path)(batch(other, "linf", 0.09)))


def test_without_a_folder_nothing_is_kept(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = list(Attacker(network, QUICK)(batch(network, "linf", EPS["linf"])))
    assert {record.witness for record in records} == {None}
    assert list(tmp_path.iterdir()) == []


def test_one_answer_per_point_whatever_the_order_of_attacks(network: Network, tmp_path: Path) -> None:
    """Records come as points are decided; in turn, each attack meets what stands, and the first to break is named."""
    asked = batch(network, "linf", EPS["linf"])
    settings = Settings.named(["fgsm", "apgd-margin"], asked.ball.p, steps=25, restarts=1)
    found = list(Attacker(network, settings, tmp_path)(asked))
    assert sorted(record.index for record in found) == list(range(12))
    methods = [record.method for record in found]
    assert methods == sorted(methods, key=["fgsm", "apgd-margin"].index)
    for record in found:
        tried, reach = record.details["attacks"], record.details.get("in_reach")
        assert list(tried) == (["fgsm"] if record.method == "fgsm" else ["fgsm", "apgd-margin"])
        # After the first attack classes are ruled out, and points without one left are not attacked again.
        assert (reach is None) == (record.method == "fgsm" and record.witness is not None)
        assert (record.reason == "no class in reach") == (reach == [])
        assert reach != [] or record.method == "fgsm"
        assert [one["broke"] for one in tried.values()] == [
            name == record.method and record.witness is not None for name in tried
        ]
        bounding = record.seconds - sum(one["seconds"] for one in tried.values())
        assert bounding == pytest.approx(0) if reach is None else bounding > 0
        if record.witness is not None:
            assert load(tmp_path / record.witness).found_by == record.method


@pytest.mark.parametrize("norm", list(EPS))
def test_ruling_out_classes_loses_no_point(network: Network, norm: str) -> None:
    """`each` asks every attack about every class; in turn, classes out of reach are left out: the same points fall."""
    out_of_reach = 0
    for factor in (0.3, 0.7, 1.5):
        asked = batch(network, norm, factor * EPS[norm], count=40)
        fallen = []
        for each in (False, True):
            settings = Settings.named(["fgsm", "apgd-t", "apgd-margin"], asked.ball.p, each=each, steps=30)
            found = in_order(Attacker(network, settings)(asked))
            fallen.append([record.index for record in found if record.verdict == "vulnerable"])
            out_of_reach += sum(record.reason == "no class in reach" for record in found)
            assert each is False or all("in_reach" not in record.details for record in found)
        assert fallen[0] == fallen[1]
    assert out_of_reach > 0


def test_a_false_claim_is_not_believed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that takes every point for broken breaks none."""

    def boast(task: Task, _: FgsmSettings) -> Found:
        nothing = task.nothing()
        return replace(nothing, success=torch.ones_like(nothing.success), margins=nothing.margins - 9)

    monkeypatch.setitem(ROWS, "fgsm", replace(ROWS["fgsm"], attack=boast))
    found = Attacker(network, Settings.only("fgsm"))(batch(network, "linf", EPS["linf"]))
    assert {record.verdict for record in found} == {"unknown"}


def test_the_nearest_known_witness_is_where_searches_for_the_nearest_begin(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = in_order(Attacker(network, QUICK, tmp_path)(batch(network, "linf", 10 * EPS["linf"])))
    broken = {record.index: load(tmp_path / record.witness).witness for record in wide if record.witness}
    seen: dict[int, torch.Tensor] = {}

    def look(task: Task, _: FgsmSettings) -> Found:
        seen.update(zip(range(len(task)), task.near, strict=True))
        return task.nothing()

    monkeypatch.setitem(ROWS, "fgsm", replace(ROWS["fgsm"], attack=look))
    list(Attacker(network, Settings.only("fgsm"), tmp_path)(batch(network, "linf", EPS["linf"] / 100)))
    assert broken
    for index, witness in broken.items():
        assert torch.equal(seen[index], torch.from_numpy(witness))


@pytest.mark.parametrize("taken", [1, 5])
def test_a_rerun_after_an_interruption_says_what_it_would_have_said(
    network: Network, tmp_path: Path, taken: int
) -> None:
    """A witness goes to disk with its record: none is known to the rerun that no record tells of."""
    asked = batch(network, "linf", EPS["linf"])
    whole = in_order(Attacker(network, QUICK, tmp_path / "whole")(asked))
    running = iter(Attacker(network, QUICK, tmp_path / "twice")(asked))
    first = list(itertools.islice(running, taken))
    running.close()
    told = {record.witness for record in first if record.witness}
    assert {path.name for path in (tmp_path / "twice").glob("*.npz")} == told
    left = [place for place in range(12) if place not in {record.index for record in first}]
    rest = Attacker(network, QUICK, tmp_path / "twice")(asked.take(torch.tensor(left)))
    for one, other in zip(in_order([*first, *rest]), whole, strict=True):
        assert (one.verdict, one.method) == (other.verdict, other.method)


def test_attacks_that_stand_alone_start_from_no_known_witness(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(Attacker(network, QUICK, tmp_path)(batch(network, "linf", 10 * EPS["linf"])))
    asked = batch(network, "linf", EPS["linf"] / 100)

    def look(task: Task, _: FgsmSettings) -> Found:
        assert torch.equal(task.near, asked.points)
        return task.nothing()

    monkeypatch.setitem(ROWS, "fgsm", replace(ROWS["fgsm"], attack=look))
    assert (
        len(list(Attacker(network, Settings(attacks=Settings.only("fgsm").attacks, each=True), tmp_path)(asked))) == 12
    )


def test_a_known_witness_of_another_shape_is_named(network: Network, tmp_path: Path) -> None:
    (record, *_) = in_order(Attacker(network, QUICK, tmp_path)(batch(network, "linf", 10 * EPS["linf"])))
    assert record.witness is not None
    item = load(tmp_path / record.witness)
    strange = replace(item, point=item.point[:, :4], witness=item.witness[:, :4])
    store(tmp_path, strange)
    with pytest.raises(DataError, match=rf"{strange.name} has shape \(1, 4, 8\)"):
        Attacker(network, QUICK, tmp_path)


@pytest.mark.parametrize("each", [False, True])
def test_the_lowest_point_found_is_where_attacks_with_a_radius_may_begin(
    network: Network, monkeypatch: pytest.MonkeyPatch, each: bool
) -> None:
    """Unless every attack is to stand alone."""
    asked, seen = batch(network, "linf", EPS["linf"] / 100), {}

    def look(task: Task, _: FgsmSettings) -> Found:
        seen.update(zip(range(len(task)), task.near, strict=True))
        return task.nothing()

    def everything(exact: Network, ball: Ball, labels: Tensor) -> Tensor:
        return torch.arange(exact.classes) != labels.unsqueeze(1)

    monkeypatch.setattr("robustcli.evaluation.attack.in_reach", everything)
    monkeypatch.setitem(ROWS, "fgsm", replace(ROWS["fgsm"], attack=look))
    (search,), (last,) = QUICK.attacks, Settings.only("fgsm").attacks
    records = in_order(Attacker(network, Settings(attacks=[search, last], each=each))(asked))
    assert {record.verdict for record in records} == {"unknown"}
    for row, record in enumerate(records):
        start = seen[row]
        assert bool(asked.ball.take(torch.tensor([row])).contains(start.unsqueeze(0))[0])
        margin = float(margins(network.double()(start.unsqueeze(0)), asked.labels[[row]]))
        expected = float(asked.clean_margins[row]) if each else record.details["smallest_margin"]
        assert margin == pytest.approx(expected, rel=1e-9)


def test_settings_go_into_the_question() -> None:
    settings = Settings.named([], 2.0, restarts=4)
    dumped = settings.model_dump()
    assert Settings.model_validate(json.loads(json.dumps(dumped))) == settings
    assert {one["settings"].get("restarts", 4) for one in dumped["attacks"]} == {4}


class TestIndependentVerifier:
    """scripts/verify_witnesses.py: numpy only, agrees with us, and notices every kind of lie."""

    @pytest.fixture
    def run(self, network: Network, tmp_path: Path) -> Path:
        save(tmp_path / "weights.safetensors", network, Metadata())
        for norm, eps in EPS.items():
            asked = Question(
                command="attack", norm=norm, eps=eps, boxed=True, model=network.weights_hash(), data="", settings={}
            )
            folder = tmp_path / "results" / asked.slug
            write_question(folder, asked)
            records = Attacker(network, QUICK, tmp_path / "witnesses")(batch(network, norm, eps))
            PointStore(folder, None).append(records)
        return tmp_path

    def verify(self, run: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-S", "-c", self.program(), str(run)], capture_output=True, text=True)

    def program(self) -> str:
        """Runs the script where importing torch or robustcli fails; -S leaves only numpy's folder to be added."""
        numpy_folder = str(Path(np.__file__).parents[1])
        return (
            f"import sys; sys.path.append({numpy_folder!r}); sys.modules['torch'] = sys.modules['robustcli'] = None;"
            f"import runpy; sys.argv[0] = 'verify'; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
        )

    def test_honest_runs_pass(self, run: Path) -> None:
        done = self.verify(run)
        assert done.returncode == 0, done.stderr
        count = len(list(all_witnesses(run / "witnesses")))
        assert f"{count} witnesses" in done.stdout
        assert "0 problems" in done.stdout

    @pytest.mark.parametrize("lie", ["margin", "distance", "moved", "gone", "claim"])
    def test_lies_are_found(self, run: Path, lie: str) -> None:
        path = sorted((run / "witnesses").glob("*.npz"))[0]
        with np.load(path) as file:
            data = dict(file)
        if lie == "margin":
            np.savez(path, **{**data, "witness": data["point"], "distance": np.float64(0)})
        elif lie == "distance":
            np.savez(path, **{**data, "distance": data["distance"] + 1e-6})
        elif lie == "moved":
            np.savez(path, **{**data, "point": data["point"] + 0.5})
        elif lie == "gone":
            path.unlink()
        else:
            store = PointStore(sorted(run.glob("results/attack-linf*"))[0], None)
            unknown = next(record for record in store.records().values() if record.verdict == "unknown")
            known = next(record for record in store.records().values() if record.verdict == "vulnerable")
            claim = {**unknown.model_dump(), "verdict": "vulnerable", "witness": known.witness, "reason": None}
            store.append([PointRecord.model_validate(claim)])
        done = self.verify(run)
        assert done.returncode == 1
        assert " 0 problems" not in done.stdout
        assert done.stderr
