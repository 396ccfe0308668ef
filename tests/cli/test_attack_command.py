"""`robust attack` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from robustcli.cli.app import run
from robustcli.results.schema import json_schema
from tests.classifiers import digits_run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return digits_run(tmp_path)


def attack(model: Path, *options: str, points: int = 24) -> int:
    fixed = ["--checkpoint", str(model), "--points", str(points), "--norm", "linf", "--eps", "0.06"]
    return run(["attack", *fixed, *options])


def records(model: Path) -> list[dict[str, Any]]:
    """All lines of all questions asked so far."""
    paths = sorted(model.parent.glob("results/*/points.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_attacks_in_turn(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is asked about what the ones before it left standing, as far as a class is in reach; the sums add up."""
    assert attack(model, "-a", "fgsm", "-a", "apgd-margin", "--steps", "20", "--json") == 0
    found = document(capsys)
    Draft202012Validator(json_schema()["result"]).validate(found)
    summary, attacks = found["summary"], found["summary"]["attacks"]
    right = 24 - summary["verdicts"]["misclassified"]
    assert list(attacks) == ["fgsm", "apgd-margin"]
    assert attacks["fgsm"]["asked"] == right
    safe = sum(line["reason"] == "no class in reach" for line in records(model))
    assert attacks["apgd-margin"]["asked"] == right - attacks["fgsm"]["broken"] - safe > 0
    assert sum(one["first"] for one in attacks.values()) == summary["verdicts"]["vulnerable"]
    assert attacks["fgsm"]["passes"] == 2 * right
    assert attacks["apgd-margin"]["lower"] is None
    settings = found["question"]["settings"]
    assert [one["name"] for one in settings["attacks"]] == ["fgsm", "apgd-margin"]
    assert settings["attacks"][1]["settings"]["steps"] == 20


def test_every_attack_about_every_point(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--each", "-a", "apgd-margin", "-a", "fgsm", "--steps", "20"]
    assert attack(model, *options, "--json") == 0
    summary = document(capsys)["summary"]
    one, two = summary["attacks"]["apgd-margin"], summary["attacks"]["fgsm"]
    assert one["asked"] == two["asked"] == 24 - summary["verdicts"]["misclassified"]
    assert two["broken"] > two["first"]
    union = summary["robust_error_lower"]
    wrong = summary["verdicts"]["misclassified"]
    assert union >= one["lower"] >= two["lower"] == (wrong + two["broken"]) / 24
    assert attack(model, *options) == 0
    assert "apgd-margin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-a", "apgd-marign"], "did you mean 'apgd-margin'?"),
        (["-a", "fgsm", "--steps", "3"], "none of fgsm has 'steps'"),
        (["--budget", "soon"], "neither passes per point nor a time"),
        (["--budget", "0"], "neither passes per point nor a time"),
        (["--budget", "1.5"], "neither passes per point nor a time"),
        (["--budget", "60s", "--batch-size", "8"], "--batch-size with a --budget of time"),
        (["--replay", "-a", "fgsm"], "--replay searches for nothing"),
        (["--replay", "--restarts", "0"], "--replay searches for nothing"),
        (["-a", "pgd", "--restarts", "0"], "restarts"),
    ],
)
def test_what_cannot_be_asked(model: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(model, *options) == 2
    assert words in capsys.readouterr().err


def test_a_budget_of_passes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No point costs more; what stands then says so."""
    assert attack(model, "-a", "fgsm", "-a", "apgd-margin", "--budget", "60", "--json") == 0
    found = document(capsys)
    lines = records(model)
    passes = [sum(one["passes"] for one in line["details"].get("attacks", {}).values()) for line in lines]
    assert 40 < max(passes) <= 60
    standing = [line for line in lines if line["verdict"] == "unknown"]
    assert standing
    for line in standing:
        safe = line["details"]["in_reach"] == []
        assert line["reason"] == ("no class in reach" if safe else "attack budget of 60 passes ran out")
    assert not all(line["reason"] == "no class in reach" for line in standing)
    assert found["question"]["settings"]["budget"] == "60"


def test_a_budget_of_time(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points that no attack has been asked about are answered: unknown, with the reason."""
    assert attack(model, "--budget", "0.000001s", "--json") == 0
    found = document(capsys)
    assert found["summary"]["points"] == 24
    lines = records(model)
    assert {line["reason"] for line in lines if line["verdict"] == "unknown"} == {"attack budget of 1e-06 s ran out"}
    capsys.readouterr()
    assert attack(model, "--budget", "5m", "-a", "fgsm", "--json") == 0
    verdicts = document(capsys)["summary"]["verdicts"]
    assert attack(model, "-a", "fgsm", "--json") == 0
    assert document(capsys)["summary"]["verdicts"] == verdicts


def first_witness(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The first file by name, and what it holds."""
    path = sorted(folder.glob("*.npz"))[0]
    with np.load(path) as file:
        return path, dict(file)


class TestReplay:
    """All stored witnesses are judged again."""

    @pytest.fixture
    def folder(self, model: Path, capsys: pytest.CaptureFixture[str]) -> Path:
        assert attack(model, "-a", "fgsm") == 0
        capsys.readouterr()
        return model.parent / "witnesses"

    def test_witnesses_hold(self, model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        count = len(list(folder.glob("*.npz")))
        assert count > 0
        assert attack(model, "--replay", "--json") == 0
        found = document(capsys)
        assert found["witnesses"] == found["confirmed"] == found["points"] == count
        assert found["found_by"] == {"fgsm": count}
        assert found["norms"] == {"linf": count}
        assert attack(model, "--replay") == 0
        assert f"{count} confirmed, 0 failed" in capsys.readouterr().out

    @pytest.mark.parametrize("lie", ["clean", "distance", "renamed"])
    def test_one_that_does_not_is_a_contradiction(
        self, model: Path, folder: Path, lie: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, data = first_witness(folder)
        if lie == "clean":
            np.savez(path, **{**data, "witness": data["point"], "distance": np.float64(0)})
        elif lie == "distance":
            np.savez(path, **{**data, "distance": data["distance"] / 2})
        else:
            path.rename(path := path.with_name("0" * 20 + ".npz"))
        assert attack(model, "--replay") == 1
        said = capsys.readouterr()
        assert "1 failed" in said.out
        assert path.name in said.err

    @pytest.mark.parametrize("lie", ["label", "point"])
    def test_one_of_another_point_is_not_confirmed(
        self, model: Path, folder: Path, lie: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, data = first_witness(folder)
        other = {"label": (data["label"] + 1) % 10, "point": data["point"] / 2}
        np.savez(path, **{**data, lie: other[lie]})
        count = len(list(folder.glob("*.npz")))
        assert attack(model, "--replay", "--json") == 0
        found = document(capsys)
        assert (found["witnesses"], found["confirmed"], found["of_other_points"]) == (count - 1, count - 1, 1)

    def test_without_any(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert attack(model, "--replay") == 0
        assert "0 witnesses of 0 points" in capsys.readouterr().out

    def test_a_witness_answers_the_next_question_and_says_who_found_it(
        self, model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert attack(model, "-a", "apgd-ce", "--steps", "10", "--json") == 0
        attacks = document(capsys)["summary"]["attacks"]
        assert attacks["replay"]["broken"] == attacks["replay"]["first"] == len(list(folder.glob("*.npz")))
        lines = records(model)
        replayed = [line for line in lines if line["method"] == "replay"]
        assert {line["details"]["attacks"]["replay"]["found_by"] for line in replayed} == {"fgsm"}
