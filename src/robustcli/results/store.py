"""The per-point store: one JSON line a point, appended as decided, one file a shard; merging shards; summaries.

    results/<question.slug>/question.json                  what was asked, written first
    results/<question.slug>/points[-shard-i-of-n].jsonl    the answers
    results/<question.slug>/result[-shard-i-of-n].json     question, summary, provenance

A line torn by a crash is skipped. Within a file the last line of a point counts; across files a decided answer goes
before `unknown`. No line is ever overlooked when looking for contradictions: `robust` and `vulnerable` for the same
point anywhere in the folder is an error that names both lines.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from robustcli import files
from robustcli.errors import ContradictionError, DataError, one_line
from robustcli.results.attacks import attack_figures
from robustcli.results.distances import distance_figures, misclassified
from robustcli.results.schema import PointRecord, Question, ResultDocument, Summary, Verdict
from robustcli.results.searches import by_attack
from robustcli.results.stages import stage_figures

Shard = tuple[int, int]
_POINTS = re.compile(r"points(-shard-\d+-of-\d+)?\.jsonl")

# Distances are printed to 17 digits, but the two ends of an exact one come from different sums.
DISTANCE_TOLERANCE = 1e-6

EXCLUDED: dict[Verdict, tuple[Verdict, ...]] = {
    "robust": ("vulnerable", "misclassified"),
    "vulnerable": ("robust",),
    "misclassified": ("robust",),
    "unknown": (),
}


@dataclass(frozen=True)
class Line:
    """A stored record and where it stands."""

    file: Path
    number: int
    record: PointRecord

    def __str__(self) -> str:
        record = self.record
        said = record.verdict or f"distance in [{record.distance_lower}, {record.distance_upper}]"
        return f"{self.file}:{self.number}: point {record.index} {said} ({record.method})"


def suffix(shard: Shard | None) -> str:
    """Shard i of n (counted from 1) as it stands in file names; empty without shards."""
    return "" if shard is None else f"-shard-{shard[0]}-of-{shard[1]}"


def points_file(folder: Path, shard: Shard | None = None) -> Path:
    """The JSONL file of a shard."""
    return folder / f"points{suffix(shard)}.jsonl"


def result_file(folder: Path, shard: Shard | None = None) -> Path:
    """The result document of a shard."""
    return folder / f"result{suffix(shard)}.json"


def points_files(folder: Path) -> list[Path]:
    """The JSONL files of all shards of a question, by name."""
    return sorted(path for path in folder.glob("points*.jsonl") if _POINTS.fullmatch(path.name))


def result_files(folder: Path) -> list[Path]:
    """The result documents of all shards of a question, by name."""
    return sorted(folder.glob("result*.json"))


def lines(path: Path) -> Iterator[Line]:
    """The records of one file with their line numbers; torn lines are skipped, no file gives nothing.

    Raises:
        DataError: for a whole line that is no PointRecord.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                continue
            if not isinstance(value, dict):
                continue
            try:
                yield Line(path, number, PointRecord.model_validate(value))
            except ValidationError as error:
                raise DataError(
                    f"{path}:{number} is not a point record ({one_line(error)})",
                    "written by another version? move the folder away and ask the question again",
                ) from error


class PointStore:
    """The answers of one shard to one question, as they are decided.

    Args:
        folder: `RunFolder.question_dir(question)`.
        shard: (i, n), i counted from 1; None for an unsharded run.
    """

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        self.folder = Path(folder)
        self.shard = shard

    @property
    def path(self) -> Path:
        """The JSONL file."""
        return points_file(self.folder, self.shard)

    def records(self) -> dict[int, PointRecord]:
        """Index -> record; the last line of a point counts."""
        return {line.record.index: line.record for line in lines(self.path)}

    def append(self, records: Iterable[PointRecord]) -> None:
        """Write the records as whole lines and flush them to disk."""
        new = [record.model_dump_json() for record in records]
        if new:
            files.append_lines(self.path, new)


def write_question(folder: Path, question: Question) -> None:
    """Note down what is asked, before the first answer. Doing it again changes nothing.

    Raises:
        DataError: when the folder already belongs to another question.
    """
    path = folder / "question.json"
    if path.exists():
        if read_question(folder) != question:
            raise DataError(f"{path} holds another question", "choose another folder with --out")
        return
    files.write_text(path, question.model_dump_json(indent=2) + "\n")


def read_question(folder: Path) -> Question:
    """The question of a folder.

    Raises:
        DataError: when question.json is missing or damaged.
    """
    path = folder / "question.json"
    try:
        return Question.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"cannot read {path}: {one_line(error)}", "move the folder away and ask the question again"
        ) from error


def write_document(folder: Path, shard: Shard | None, document: ResultDocument) -> Path:
    """Replace the result document of a shard; its path."""
    path = result_file(folder, shard)
    files.write_text(path, document.model_dump_json(by_alias=True, indent=2) + "\n")
    return path


def read_document(path: Path) -> ResultDocument:
    """One result document.

    Raises:
        DataError: when it is missing or does not fit the schema.
    """
    try:
        return ResultDocument.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"cannot read {path}: {one_line(error)}", "run the command again: it continues where it stopped"
        ) from error


def merge_lines(folder: Path) -> dict[int, Line]:
    """Index -> the line that counts, over all shards of a question.

    Raises:
        ContradictionError: naming both lines, when any two lines of the folder cannot both be true.
    """
    merged: dict[int, Line] = {}
    claims: dict[int, dict[str, Line]] = {}
    for path in points_files(folder):
        last: dict[int, Line] = {}
        for line in lines(path):
            last[line.record.index] = line
            check(claims.setdefault(line.record.index, {}), line)
        for index, line in last.items():
            if index not in merged or line.record.verdict != "unknown" or merged[index].record.verdict == "unknown":
                merged[index] = line
    return dict(sorted(merged.items()))


def merge(folder: Path) -> dict[int, PointRecord]:
    """Index -> record over all shards of a question; see `merge_lines`."""
    return {index: line.record for index, line in merge_lines(folder).items()}


def check(claims: dict[str, Line], line: Line) -> None:
    """Compare a line with what the same question has been answered before for its point, and remember it.

    `robust` excludes `vulnerable` and `misclassified`; a proved lower distance cannot exceed a found upper one.

    Raises:
        ContradictionError: naming both lines.
    """
    record = line.record
    if record.verdict is not None:
        for other in EXCLUDED[record.verdict]:
            if other in claims:
                raise contradiction(claims[other], line)
        claims.setdefault(record.verdict, line)
    if record.verdict == "misclassified" or record.predicted != record.label:
        return
    if record.distance_lower is not None and record.distance_lower > _distance(claims.get("lower"), "lower", -math.inf):
        claims["lower"] = line
    if record.distance_upper is not None and record.distance_upper < _distance(claims.get("upper"), "upper", math.inf):
        claims["upper"] = line
    lower = _distance(claims.get("lower"), "lower", -math.inf)
    if lower > _distance(claims.get("upper"), "upper", math.inf) * (1 + DISTANCE_TOLERANCE):
        raise contradiction(claims["lower"], claims["upper"])


def contradiction(first: Line, second: Line) -> ContradictionError:
    """The error that names two lines which cannot both be true."""
    return ContradictionError(
        f"two records contradict each other\n  {first}\n  {second}",
        "one of them is wrong: please report it with both files; move one result folder away to go on",
    )


def _distance(line: Line | None, end: str, default: float) -> float:
    value = None if line is None else getattr(line.record, f"distance_{end}")
    return default if value is None else value


def summarise(
    records: Mapping[int, PointRecord] | Iterable[PointRecord], requested: int, seconds: float, *, proves: bool = True
) -> Summary:
    """Figures over the answered points (methods.md section 9: misclassified points are errors everywhere).

    Without any answered point the error figures are null, the test error 0 of 0. An attack (`proves` false) says
    nothing about the upper bound.
    """
    rows = list(records.values() if isinstance(records, Mapping) else records)
    count = len(rows)
    verdicts = {
        verdict: found
        for verdict in ("robust", "vulnerable", "misclassified", "unknown")
        if (found := sum(row.verdict == verdict for row in rows))
    }
    asked = any(row.verdict is not None for row in rows)
    wrong = sum(map(misclassified, rows))
    return Summary(
        points=count,
        requested=requested,
        test_error=wrong / count if count else 0.0,
        robust_error_lower=(wrong + verdicts.get("vulnerable", 0)) / count if asked else None,
        robust_error_upper=(count - verdicts.get("robust", 0)) / count if asked and proves else None,
        verdicts=verdicts,
        **({**distance_figures(rows), "searches": by_attack(rows)} if rows and not asked else {}),
        stages=stage_figures(rows),
        attacks=attack_figures(rows),
        seconds=seconds,
    )
