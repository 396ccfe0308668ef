"""Checking stored files against the published schema, and that schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from robustcli.results import store
from robustcli.results.collect import Report
from robustcli.results.runs import RunFolder
from robustcli.results.schema import EpochRecord, EvaluationRecord, PointRecord, Question, ResultDocument, json_schema


def published_schema() -> dict[str, Any]:
    """JSON schema of every JSON object the tool stores or prints, by kind."""
    return {
        **json_schema(),
        "question": Question.model_json_schema(by_alias=True),
        "report": Report.model_json_schema(by_alias=True, mode="serialization"),
    }


@dataclass(frozen=True)
class Checked:
    """What became of the files: how many fit, what is wrong, which torn lines were passed over."""

    files: int
    problems: list[str]
    torn: list[str]


def validate(runs: list[RunFolder]) -> Checked:
    """Read every result file of the runs."""
    count, problems, torn = 0, [], []
    for run in runs:
        for path, kind, by_line in _files(run):
            count += 1
            wrong, cut = (_lines if by_line else _document)(path, kind)
            problems += wrong
            torn += cut
        for folder in run.question_dirs():
            problems += _slug(folder)
    return Checked(count, problems, torn)


def _files(run: RunFolder) -> Iterator[tuple[Path, type[BaseModel], bool]]:
    if run.metrics.is_file():
        yield run.metrics, EpochRecord, True
    if run.evaluations.is_file():
        yield run.evaluations, EvaluationRecord, True
    for folder in run.question_dirs():
        yield folder / "question.json", Question, False
        for path in store.points_files(folder):
            yield path, PointRecord, True
        for path in store.result_files(folder):
            yield path, ResultDocument, False


def _document(path: Path, kind: type[BaseModel]) -> tuple[list[str], list[str]]:
    return _attempt(str(path), lambda: kind.model_validate_json(path.read_bytes())), []


def _lines(path: Path, kind: type[BaseModel]) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    torn: list[str] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            kind.model_validate_json(line)
        except ValidationError as error:
            where = f"{path}:{number}"
            if error.errors()[0]["type"] == "json_invalid":
                torn.append(where)
            else:
                problems += _attempt(where, lambda line=line: kind.model_validate_json(line))  # type: ignore[misc]
    return problems, torn


def _attempt(where: str, read: Callable[[], object]) -> list[str]:
    try:
        read()
    except OSError as error:
        return [f"{where}: {error.strerror}"]
    except ValidationError as error:
        return [f"{where}: {'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()]
    return []


def _slug(folder: Path) -> list[str]:
    """A folder must be named after its question, else two questions could share it."""
    try:
        slug = Question.model_validate_json((folder / "question.json").read_bytes()).slug
    except ValidationError:
        return []
    return [] if folder.name == slug else [f"{folder}: the question inside is {slug}"]
