"""Every written file fits the published schema; damaged ones are found."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from robustcli.results.runs import RunFolder
from robustcli.results.schema import EpochRecord
from robustcli.results.store import PointStore
from robustcli.results.validate import published_schema, validate
from tests.results.fabricate import answer, distance, question, recipe, record, trained


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = trained(tmp_path, recipe())
    answer(run, question(), "rvmu", (1, 2))
    answer(run, question(), "....rv", (2, 2))
    answer(run, question("bound-distance", "l2", None), [distance(0, 0.1, None), distance(1, 0.2, 0.2, exact=True)])
    epoch = EpochRecord(
        epoch=1, steps=10, learning_rate=1e-3, loss=0.5, train_error=0.1, parts={}, test_error=None, seconds=1.0
    )
    run.metrics.write_text(epoch.model_dump_json() + "\n")
    return run


def test_every_written_file_fits_the_schema(run: RunFolder) -> None:
    schema = published_schema()
    for folder in run.question_dirs():
        jsonschema.validate(json.loads((folder / "question.json").read_text()), schema["question"])
        for path in folder.glob("result*.json"):
            jsonschema.validate(json.loads(path.read_text()), schema["result"])
        for path in folder.glob("points*.jsonl"):
            for line in path.read_text().splitlines():
                jsonschema.validate(json.loads(line), schema["point"])
    for line in run.metrics.read_text().splitlines():
        jsonschema.validate(json.loads(line), schema["epoch"])
    assert validate([run]).files == 9
    assert validate([run]).problems == []


def test_the_schema_itself_is_valid() -> None:
    for name, schema in published_schema().items():
        if name != "$id":
            jsonschema.Draft202012Validator.check_schema(schema)


def test_damage_is_found_where_it_is(run: RunFolder) -> None:
    folder = run.question_dir(question())
    with (folder / "points-shard-1-of-2.jsonl").open("a") as file:
        file.write('{"index": 1, "label": "seven"}\n{"index": 2, "la')
    (folder / "result-shard-1-of-2.json").write_text("{}")
    checked = validate([run])
    assert any(item.startswith(f"{folder / 'points-shard-1-of-2.jsonl'}:5: label") for item in checked.problems)
    assert any(item.startswith(f"{folder / 'result-shard-1-of-2.json'}: schema") for item in checked.problems) or any(
        item.startswith(f"{folder / 'result-shard-1-of-2.json'}: question") for item in checked.problems
    )
    assert checked.torn == [f"{folder / 'points-shard-1-of-2.jsonl'}:6"]


def test_a_renamed_question_folder_is_noticed(run: RunFolder) -> None:
    folder = run.question_dir(question())
    folder.rename(folder.with_name("mine"))
    assert any("the question inside is certify-linf-0.1-box" in item for item in validate([run]).problems)


def test_appending_after_a_tear_keeps_the_file_readable(run: RunFolder) -> None:
    store = PointStore(run.question_dir(question()), (1, 2))
    with store.path.open("a") as file:
        file.write('{"index": 6, "la')
    store.append([record(7, "r")])
    assert set(store.records()) == {0, 1, 2, 3, 7}
    assert validate([run]).problems == []
