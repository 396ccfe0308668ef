"""The runner: every point answered once, on disk at once, whatever the batch size, shards or interruptions."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

from robustcli.cli.app import run
from robustcli.errors import IncompleteError, Interrupted, UsageError
from robustcli.evaluation import certify as module
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import Certifier, FirstPass, Settings
from robustcli.evaluation.runner import answer
from robustcli.evaluation.session import Selection, Session, open_session
from robustcli.networks.architectures import build
from robustcli.networks.checkpoints import Metadata, save
from robustcli.results import provenance
from robustcli.results.schema import PointRecord, Question, json_schema
from robustcli.results.store import PointStore, merge


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small random classifier for digits, saved as a finished run."""
    torch.manual_seed(0)
    network = build("1x20", (1, 8, 8), 10)
    with torch.no_grad():  # the class means as templates: an honest, weak classifier
        network.blocks[-1].layers[-1].weight.mul_(2)
    path = tmp_path / "runs" / "tiny" / "seed-0" / "weights.safetensors"
    save(path, network, Metadata(architecture=network.describe(), dataset="digits"))
    return path


def session(model: Path, **values: object) -> Session:
    chosen: dict[str, object] = {"checkpoint": model, "points": "60", "norm": "linf", "eps": "0.01", **values}
    return open_session(Selection(**chosen))  # type: ignore[arg-type]


def question(current: Session) -> Question:
    return Question(
        command="certify", norm="linf", eps=0.01, boxed=True, model=current.model_hash, data=current.data.hash,
        settings=Settings().model_dump(),
    )  # fmt: skip


def solve(current: Session) -> dict[int, tuple[str | None, float | None]]:
    answer(current, question(current), Certifier(current.exact, Settings()))
    records = PointStore(current.run.question_dir(question(current)), current.shard).records()
    return {index: (record.verdict, record.margin_lower) for index, record in records.items()}


def test_batch_size_and_shards_give_the_same_verdicts(model: Path, tmp_path: Path) -> None:
    whole = solve(session(model, out=tmp_path / "a"))
    assert sorted(whole) == list(range(60))
    small = solve(session(model, out=tmp_path / "b", batch_size=7))
    for shard in ("1/3", "2/3", "3/3"):
        current = session(model, out=tmp_path / "c", shard=shard)
        solve(current)
    merged = merge(current.run.question_dir(question(current)))
    for index, (verdict, margin) in whole.items():
        assert small[index][0] == verdict == merged[index].verdict
        if margin is not None:
            assert small[index][1] == pytest.approx(margin, abs=1e-5)
            assert merged[index].margin_lower == pytest.approx(margin, abs=1e-5)


def test_a_rerun_answers_only_what_is_open(model: Path, tmp_path: Path) -> None:
    first = solve(session(model, out=tmp_path / "a", points="20"))
    calls: list[int] = []

    class Counting(Certifier):
        def __call__(self, batch):  # type: ignore[no-untyped-def]
            calls.extend(batch.indices.tolist())
            return super().__call__(batch)

    current = session(model, out=tmp_path / "a", points="30")
    answer(current, question(current), Counting(current.exact, Settings()))
    assert calls
    assert min(calls) >= 20
    records = PointStore(current.run.question_dir(question(current))).records()
    assert {index: (records[index].verdict, records[index].margin_lower) for index in range(20)} == first


def test_who_answered_is_noted_point_by_point_and_said_where_it_was_another_version(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def certify(points: int) -> str:
        asked = ["certify", "--checkpoint", str(model), "--norm", "linf", "--eps", "0.01", "--points", str(points)]
        assert run([*asked, "--out", str(tmp_path / "a")]) == 0
        return " ".join(capsys.readouterr().err.split())

    monkeypatch.setattr(provenance, "maker", lambda: "0.1.0 abc")
    assert "kept" not in certify(20)
    monkeypatch.setattr(provenance, "maker", lambda: "0.2.0")
    assert "20 of 30 answers are kept from robustcli 0.1.0 abc; to ask again, move" in certify(30)
    (path,) = (tmp_path / "a").rglob("result.json")
    assert json.loads(path.read_text())["provenance"]["made_by"] == {"0.1.0 abc": 20, "0.2.0": 10}
    records = PointStore(path.parent).records()
    assert [records[index].made_by for index in (0, 19, 20, 29)] == ["0.1.0 abc", "0.1.0 abc", "0.2.0", "0.2.0"]


def test_ctrl_c_keeps_what_was_decided(model: Path, tmp_path: Path) -> None:
    class Pressed(Certifier):
        def __call__(self, batch):  # type: ignore[no-untyped-def]
            if int(batch.indices[0]) >= 16:
                raise KeyboardInterrupt
            return super().__call__(batch)

    current = session(model, out=tmp_path / "a", batch_size=8)
    with pytest.raises(Interrupted, match="16 of 60 points answered"):
        answer(current, question(current), Pressed(current.exact, Settings()))
    assert sorted(PointStore(current.run.question_dir(question(current))).records()) == list(range(16))
    assert solve(current) == solve(session(model, out=tmp_path / "b", batch_size=8))


@pytest.mark.parametrize(("pausing", "kept"), [(False, 40), (True, 1)])
def test_time_over_loses_nothing_that_is_decided(model: Path, tmp_path: Path, pausing: bool, kept: int) -> None:
    """Records that come together are kept together; the place to stop is where the evaluator says."""

    class Slow(Certifier):
        def __call__(self, batch: Batch) -> Iterator[PointRecord]:
            records = list(super().__call__(replace(batch, pause=lambda: None)))
            assert len(records) > 1
            time.sleep(0.3)
            yield records[0]
            if pausing:
                batch.pause()
            yield from records[1:]

    current = session(model, out=tmp_path / "a", batch_size=40, max_seconds=0.2)
    with pytest.raises(IncompleteError, match=f"{kept} of 60 points"):
        answer(current, question(current), Slow(current.exact, Settings()))
    assert len(PointStore(current.run.question_dir(question(current))).records()) == kept


def test_result_files_validate_against_the_published_schema(model: Path, tmp_path: Path) -> None:
    solve(session(model, out=tmp_path / "a"))
    schemas = json_schema()
    (result,) = (tmp_path / "a").rglob("result.json")
    Draft202012Validator(schemas["result"]).validate(json.loads(result.read_text()))
    (lines,) = (tmp_path / "a").rglob("points.jsonl")
    for line in lines.read_text().splitlines():
        Draft202012Validator(schemas["point"]).validate(json.loads(line))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"eps": "-0.1"}, "must be positive"), ({"eps": "x"}, "not a number"), ({"shard": "3/2"}, "i/n")],
)
def test_a_wrong_option_is_said_before_a_missing_file(tmp_path: Path, wrong: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        open_session(Selection(checkpoint=tmp_path / "none", **wrong))  # type: ignore[arg-type]


def test_unsound_float32_margin_is_not_used(model: Path) -> None:
    assert session(model).exact.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--norm", "l3x"], 2, "unknown norm"),
        (["--norm", "linff"], 2, "did you mean 'linf'?"),
        (["--eps", "-0.1"], 2, "must be positive"),
        (["--eps", "0"], 2, "must be positive"),
        (["--eps", "nan"], 2, "finite"),
        (["--eps", "8"], 2, "larger than the input box"),
        (["--points", "0"], 2, "no point"),
        (["--points", "501"], 2, "beyond the 500 test points"),
        (["--points", "a:b"], 2, "neither a number nor a range"),
        (["--shard", "3/2"], 2, "not i/n"),
        (["--method", "duall"], 2, "did you mean 'dual'?"),
        (["--device", "gpu"], 2, "unknown device"),
        (["--dataset", "mnits"], 2, "did you mean 'mnist'?"),
        (["--set", "training.epochs=1"], 2, "no --recipe"),
        (["--norm", "linf", "--max-seconds", "0"], 5, "0 of 1000 points"),
    ],
)
def test_wrong_inputs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str
) -> None:
    base = ["certify", "--checkpoint", str(model), "--out", str(tmp_path / "x"), *arguments]
    found = run(base)
    output = capsys.readouterr().err
    if text == "0 of 1000 points":
        assert found == 5
        return
    assert found == code, output
    assert text in " ".join(output.split())


def test_every_bound_has_the_name_of_its_function() -> None:
    for name, bound in module.BOUNDS.items():
        assert name == bound.__name__.replace("_", "-")


def test_what_was_decided_before_an_interruption_within_a_batch_is_kept(model: Path, tmp_path: Path) -> None:
    class Pressed:
        batch_size = 60

        def __init__(self, certifier: Certifier) -> None:
            self.certifier = certifier

        def __call__(self, batch: Batch) -> Iterator[PointRecord]:
            yield from itertools.islice(self.certifier(batch), 2)
            raise KeyboardInterrupt

    current = session(model, out=tmp_path / "a")
    with pytest.raises(Interrupted):
        answer(current, question(current), Pressed(Certifier(current.exact, Settings())))
    kept = PointStore(current.run.question_dir(question(current))).records()
    assert [record.method == "clean" for record in kept.values()] == [False, False]
    resumed, whole = solve(current), solve(session(model, out=tmp_path / "b"))
    assert [resumed[index][0] for index in range(60)] == [whole[index][0] for index in range(60)]


def test_a_first_pass_leaves_the_rest_and_a_forecast_comes_between(model: Path, tmp_path: Path) -> None:
    current = session(model, out=tmp_path / "a", eps="0.1")
    said: list[int] = []
    settings = Settings(methods=["dual", "branch-and-bound"], max_nodes=1)
    certifier = Certifier(current.exact, settings)
    first = FirstPass.before(certifier)
    assert first is not None
    asked = question(current).model_copy(update={"settings": settings.asked, "eps": 0.1})

    def forecast() -> None:
        said.append(len(first.forecast.neurons))

    document = answer(current, asked, certifier, first=first, forecast=forecast)
    assert document.summary.points == 60
    assert document.summary.stages is not None
    assert said == [document.summary.stages["branch-and-bound"].asked]
    assert said[0] > 0
    again = answer(current, asked, certifier, first=first, forecast=forecast)
    assert again.summary == document.summary
    assert len(said) == 1  # nothing is open any more


def test_a_checkpoint_is_answered_in_its_run_unless_another_folder_is_asked_for(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine" / "seed-3"
    run.mkdir(parents=True)
    weights = run / "weights.safetensors"
    weights.write_bytes(model.read_bytes())
    here = open_session(Selection(checkpoint=weights, points="5"))
    same = open_session(Selection(checkpoint=weights, points="5", runs=tmp_path / "runs"))
    other = open_session(Selection(checkpoint=run, points="5", runs=tmp_path / "other"))
    assert here.run.path == same.run.path == run
    assert other.run.path == tmp_path / "other" / "mine" / "seed-3"
