"""The cascade: every stage sees only what is open, what it finds is kept, verdicts are those of brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.errors import RobustError, SolverError
from robustcli.evaluation import certify, stages
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.cascade import Budget, Cascade, Context, Fallen, Findings, Stage, State
from robustcli.evaluation.certify import BOUNDS, COMPLETE, QUICK, Certifier, FirstPass, Settings, resolve
from robustcli.networks.network import Network, margins
from robustcli.norms import norm_name
from robustcli.results.schema import PointRecord
from robustcli.results.stages import stage_figures
from robustcli.results.witnesses import load
from tests.nets import convolutional, dense
from tests.oracle import minimal_margin

BALLS = list(itertools.product((1.0, 2.0, math.inf), (None, (0.0, 1.0))))
EPS = {1.0: 0.2, 2.0: 0.15, math.inf: 0.12}


def ask(network: Network, points: Tensor, eps: float, p: float = math.inf, box=(0.0, 1.0)) -> Batch:
    """The points as a batch, each with its predicted class as its label."""
    logits = network(points)
    labels = logits.argmax(1)
    clean = margins(logits, labels)
    return Batch(torch.arange(len(points)), points, labels, labels, clean, Ball.around(points, eps, p, box))


def points(count: int, *shape: int, seed: int = 3) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> tuple[Network, Batch]:
    """A net and questions of which some are true, some false, and some hard."""
    network = dense([2, 8, 6, 3], 3)
    network.layers[-1].bias.data -= network(points(100, 2, seed=1)).mean(0)
    return network, ask(network, points(12, 2), 0.12)


class Told:
    """A stage that says what it is told to, and remembers what it was asked.

    Args:
        margins: by point and target, of the whole batch.
    """

    depends: tuple[str, ...] = ()
    builds = False
    share = 0.25

    def __init__(self, margins: Sequence[Sequence[float]] | None = None, alone: bool = False, **more: object) -> None:
        self.margins, self.alone, self.more = margins, alone, more
        self.asked: list[tuple[list[int], list[list[bool]]]] = []
        self.seconds: list[float | None] = []

    def applies(self, p: float) -> bool:
        return True

    def run(self, state: State, context: Context, seconds: float | None) -> Findings:
        index = state.batch.indices.tolist()
        self.asked.append((index, state.open.tolist()))
        self.seconds.append(seconds)
        found = None if self.margins is None else torch.tensor([self.margins[i] for i in index]).double()
        return Findings(found, **self.more)  # type: ignore[arg-type]


def cascade(*chosen: Stage, network: Network | None = None) -> Cascade:
    network = network or small()[0]
    named = {f"stage {number}": stage for number, stage in enumerate(chosen)}
    return Cascade(named, Context(network, network, Budget(), None))


def three() -> Batch:
    """Three points of the small net, two targets each."""
    return small()[1].take(torch.arange(3))


def by_index(records: Iterator[PointRecord]) -> dict[int, PointRecord]:
    return {record.index: record for record in records}


def test_each_stage_is_asked_about_what_is_open() -> None:
    first = Told([[1.0, 2.0], [1.0, -1.0], [-3.0, -2.0]])
    second = Told([[9.0, 9.0], [-5.0, 0.5], [4.0, -1.0]])
    third = Told([[9.0, 9.0], [9.0, 9.0], [-7.0, -0.25]])
    records = by_index(cascade(first, second, third)(three()))
    assert second.asked == [([1, 2], [[False, True], [True, True]])]
    assert third.asked == [([2], [[False, True]])]
    assert [records[i].verdict for i in range(3)] == ["robust", "robust", "unknown"]
    assert [records[i].method for i in range(3)] == ["stage 0", "stage 1", "stage 2"]
    # The best bound on each target counts: of point 1 the first stage's for one, the second's for the other.
    assert [records[i].margin_lower for i in range(3)] == [1.0, 0.5, -0.25]
    assert records[2].details["margins"] == {"stage 0": -3.0, "stage 1": -1.0, "stage 2": -0.25}
    assert list(records[1].details["stages"]) == ["stage 0", "stage 1"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0])
def test_no_stage_proves_anything_by_a_value_that_is_no_positive_number(value: float) -> None:
    told = Told([[1.0, value]] * 3)
    records = list(cascade(told)(three()))
    assert {record.verdict for record in records} == {"unknown"}
    assert {record.margin_lower for record in records} == {0.0 if value == 0 else None}
    assert not {"NaN", "Infinity"} & set(records[0].model_dump_json().replace(":", " ").split())
    # Nor does it spoil what another one proves.
    assert {record.verdict for record in cascade(told, Told([[-1.0, 2.0]] * 3))(three())} == {"robust"}


def test_an_input_found_decides_at_once() -> None:
    finder = Told(fallen={1: Fallen(-0.5, "some.npz")}, reason="attack failed")
    last = Told([[1.0, 1.0]] * 3)
    records = by_index(cascade(finder, last)(three()))
    assert [records[i].verdict for i in range(3)] == ["robust", "vulnerable", "robust"]
    assert (records[1].margin_upper, records[1].witness, records[1].method) == (-0.5, "some.npz", "stage 0")
    assert last.asked[0][0] == [0, 2]


def test_reasons_and_verdicts_without_a_number() -> None:
    unknown = list(cascade(Told(reason="time limit"))(three()))
    assert {(record.verdict, record.reason) for record in unknown} == {("unknown", "time limit")}
    proved = by_index(cascade(Told(proved=frozenset([2])))(three()))
    assert [proved[i].verdict for i in range(3)] == ["unknown", "unknown", "robust"]
    assert proved[2].margin_lower is None


def test_stages_for_one_point_answer_point_by_point() -> None:
    """A record is there before the next point is begun; what was decided before is there at once."""
    slow = Told([[1.0, 1.0]] * 3, alone=True)
    records = cascade(Told([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]), slow)(three())
    assert next(records).index == 0
    assert slow.asked == []
    assert next(records).index == 1
    assert [index for index, _ in slow.asked] == [[1]]
    assert [record.index for record in records] == [2]


def test_stages_share_the_time_of_a_point() -> None:
    first, last = Told(alone=True), Told(alone=True)
    network = small()[0]
    limited = Context(network, network, Budget(time_limit=100.0), None)
    list(Cascade({"first": first, "last": last}, limited)(three()))
    assert first.seconds == [pytest.approx(25, abs=1)] * 3
    assert last.seconds == [pytest.approx(100, abs=1)] * 3
    list(cascade(first)(three()))
    assert first.seconds[3:] == [None] * 3


def test_trouble_with_a_point_is_unknown_trouble_with_a_solver_is_not() -> None:
    class Broken(Told):
        def run(self, state: State, context: Context, seconds: float | None) -> Findings:
            raise RobustError("the forms differ from the forward pass")

    class Missing(Told):
        def run(self, state: State, context: Context, seconds: float | None) -> Findings:
            raise SolverError("no licence")

    records = list(cascade(Broken(alone=True))(three()))
    assert {(record.verdict, record.reason) for record in records} == {
        ("unknown", "the forms differ from the forward pass")
    }
    with pytest.raises(SolverError):
        list(cascade(Missing())(three()))


def test_bounds_are_asked_for_open_targets_and_start_from_those_known(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = small()
    calls: list[tuple[Ball, Tensor, Sequence[Bounds] | None, MarginBounds]] = []

    def watched(name: str):
        bound = BOUNDS[name]

        def call(network: Network, ball: Ball, rows: Tensor, *, known: Sequence[Bounds] | None = None) -> MarginBounds:
            found = bound(network, ball, rows, known=known)
            calls.append((ball, rows, known, found))
            return found

        return call

    monkeypatch.setattr(certify, "BOUNDS", {name: watched(name) for name in QUICK})
    list(Certifier(network, Settings(methods=["dual", "crown"]))(batch))
    (_, every, none, before), (ball, rows, known, _) = calls[:2]
    assert none is None
    assert known is not None
    left = ~(before.margins > 0).all(1)
    assert 0 < int(left.sum()) < len(batch)
    assert torch.equal(ball.center, batch.points[left])
    for given, layer in zip(known, before.layers, strict=True):
        assert torch.equal(given.lower, layer.lower[left])
        assert torch.equal(given.upper, layer.upper[left])
    # Every open target is among the rows asked about, and no more are asked than the fullest point needs.
    still = before.margins[left] <= 0
    assert rows.shape[1] == int(still.sum(1).max())
    for point, targets in enumerate(still):
        wanted = {tuple(row) for row in every[left][point][targets].tolist()}
        assert wanted <= {tuple(row) for row in rows[point].tolist()}


@pytest.mark.parametrize(("p", "box"), BALLS)
def test_complete_verdicts_are_those_of_enumeration(p: float, box: tuple[float, float] | None, tmp_path: Path) -> None:
    network, _ = small()
    count = 2 if box is None else 7  # without the box there are many more regions to go through
    batch = ask(network, points(count, 2), EPS[p], p, box)
    settings = resolve(p, box is not None, complete=True, max_nodes=10_000)
    records = by_index(Certifier(network, settings, tmp_path)(batch))
    truth = [
        minimal_margin(network, x, int(label), EPS[p], p, box)
        for x, label in zip(batch.points, batch.labels, strict=True)
    ]
    assert [records[i].verdict for i in range(count)] == ["robust" if m > 0 else "vulnerable" for m in truth]
    assert box is None or {record.verdict for record in records.values()} == {"robust", "vulnerable"}
    for index, margin in enumerate(truth):
        record = records[index]
        assert record.margin_lower is None or record.margin_lower <= margin + 1e-9
        if record.verdict != "vulnerable":
            continue
        assert record.witness is not None
        witness = load(tmp_path / record.witness)
        x = torch.from_numpy(witness.witness).unsqueeze(0)
        assert witness.norm == norm_name(p)
        assert bool(batch.ball.take(torch.tensor([index])).contains(x))
        assert float(margins(network(x), batch.labels[index : index + 1])) == pytest.approx(record.margin_upper)
        assert margin - 1e-9 <= (record.margin_upper or 0) < 0


@pytest.mark.parametrize("p", list(EPS))
def test_bounds_that_start_from_each_other_are_sound(p: float) -> None:
    """In either order, all bounds together prove no more than enumeration finds."""
    network, _ = small()
    batch = ask(network, points(2, 2), EPS[p], p)
    truth = [
        minimal_margin(network, x, int(label), EPS[p], p, (0.0, 1.0))
        for x, label in zip(batch.points, batch.labels, strict=True)
    ]
    names = resolve(p, True, list(BOUNDS)).methods
    for chosen in (names, names[::-1]):
        for index, record in by_index(Certifier(network, Settings(methods=chosen))(batch)).items():
            assert record.margin_lower is not None
            assert record.margin_lower <= truth[index]
            assert record.verdict == ("robust" if record.margin_lower > 0 else "unknown")


def test_verdicts_do_not_depend_on_batches_nor_on_the_order_of_stages() -> None:
    network = convolutional(1)
    batch = ask(network, points(6, 1, 8, 8), 0.05)
    whole = by_index(Certifier(network, resolve(math.inf, True, complete=True))(batch))
    assert len({record.method for record in whole.values()}) > 1
    certifier = Certifier(network, resolve(math.inf, True, complete=True))
    for row in range(6):
        (alone,) = certifier(batch.take(torch.tensor([row])))
        assert (alone.verdict, alone.method) == (whole[row].verdict, whole[row].method)
        assert alone.margin_lower == pytest.approx(whole[row].margin_lower, abs=1e-7)
    turned = Settings(methods=["attack", "crown", "dual", "interval", "branch-and-bound"])
    for index, record in by_index(Certifier(network, turned)(batch)).items():
        assert record.verdict == whole[index].verdict


def test_a_node_limit_gives_the_same_answer_twice() -> None:
    network, batch = small()
    settings = Settings(methods=["dual", "branch-and-bound"], max_nodes=1)
    first, second = (by_index(Certifier(network, settings)(batch)) for _ in range(2))
    assert "unknown" in {record.verdict for record in first.values()}
    for index, record in first.items():
        other = second[index]
        assert (record.verdict, record.margin_lower, record.reason) == (
            other.verdict,
            other.margin_lower,
            other.reason,
        )
        assert record.verdict != "unknown" or "limit" in (record.reason or "")


def test_no_time_leaves_what_bounds_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = small()
    monkeypatch.setattr(stages, "verify", None)
    settings = Settings(methods=["dual", "branch-and-bound"], time_limit=0)
    quick = by_index(Certifier(network, Settings(methods=["dual"]))(batch))
    for index, record in by_index(Certifier(network, settings)(batch)).items():
        assert (record.verdict, record.margin_lower) == (quick[index].verdict, quick[index].margin_lower)
        assert record.verdict == "robust" or record.reason == "time limit before branch and bound"


def test_the_first_pass_decides_what_it_can_and_counts_the_rest() -> None:
    network, batch = small()
    certifier = Certifier(network, resolve(math.inf, True, complete=True, time_limit=30))
    first = FirstPass.before(certifier)
    assert first is not None
    decided = by_index(first(batch))
    quick = by_index(Certifier(network, Settings())(batch))
    robust = {index for index, record in quick.items() if record.verdict == "robust"}
    assert decided.keys() == robust
    left = [record.details["unstable"] for index, record in quick.items() if index not in robust]
    assert sorted(first.forecast.neurons) == sorted(left)
    assert f"{len(left)} points open" in str(first.forecast)
    assert f"at most {len(left)} x 30 s" in str(first.forecast)
    assert FirstPass.before(Certifier(network, Settings())) is None
    assert FirstPass.before(Certifier(network, Settings(methods=["attack", "dual", "branch-and-bound"]))) is None


def test_stage_figures_add_up(tmp_path: Path) -> None:
    network, batch = small()
    records = list(Certifier(network, resolve(math.inf, True, complete=True), tmp_path)(batch))
    found = stage_figures(records)
    assert found is not None
    assert list(found) == [name for name in COMPLETE if name in found]
    asked = len(batch)
    for figures in found.values():
        assert figures.asked == asked
        asked -= figures.robust + figures.vulnerable
    assert asked == 0
    assert sum(figures.vulnerable for figures in found.values()) == sum(
        record.verdict == "vulnerable" for record in records
    )
    assert sum(figures.seconds for figures in found.values()) == pytest.approx(sum(r.seconds for r in records))
    assert stage_figures([record.model_copy(update={"details": {}}) for record in records]) is None
