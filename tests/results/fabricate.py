"""Run folders with made-up answers, for the tests of the store and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from robustcli.recipes.model import Recipe
from robustcli.results import provenance, store
from robustcli.results.runs import RunFolder, run_folder
from robustcli.results.schema import Command, PointRecord, Provenance, Question, ResultDocument, Verdict

LETTERS: dict[str, Verdict] = {"r": "robust", "v": "vulnerable", "m": "misclassified", "u": "unknown"}


def question(command: Command = "certify", norm: str = "linf", eps: float | None = 0.1, **changes: object) -> Question:
    """A question about the one made-up network."""
    content = {"command": command, "norm": norm, "eps": eps, "boxed": True, "model": "net", "data": "split"}
    return Question.model_validate({**content, **changes})


def record(index: int, letter: str, method: str = "dual") -> PointRecord:
    """A record whose verdict is the letter's."""
    predicted = 1 if letter == "m" else 0
    verdict = LETTERS[letter]
    return PointRecord(index=index, label=0, predicted=predicted, verdict=verdict, method=method, seconds=0.5)


def distance(
    index: int, lower: float | None, upper: float | None, exact: bool = False, right: bool = True
) -> PointRecord:
    """A record of bound-distance."""
    return PointRecord(
        index=index,
        label=0,
        predicted=0 if right else 1,
        verdict=None,
        method="regions",
        distance_lower=lower,
        distance_upper=upper,
        exact=exact,
        seconds=0.25,
    )


def documented(question: Question, records: Sequence[PointRecord], shard: store.Shard | None = None) -> ResultDocument:
    """The result document that goes with the records."""
    return ResultDocument(
        question=question,
        summary=store.summarise(records, len(records), 1.0),
        provenance=Provenance(
            recipe="toy",
            recipe_hash="0" * 64,
            checkpoint="weights.safetensors",
            architecture="cnn",
            dataset="mnist",
            split="test",
            partial=None,
            seed=0,
            points="0:4",
            shard=None if shard is None else f"{shard[0]}/{shard[1]}",
            versions=provenance.versions(),
            commit=provenance.commit(),
            hardware=provenance.hardware(),
            device="cpu",
            dtype="float64",
            threads=1,
            command_line=provenance.command_line(),
            started=provenance.now(),
            finished=provenance.now(),
        ),
    )


def answer(
    run: RunFolder, question: Question, records: str | Sequence[PointRecord], shard: store.Shard | None = None
) -> Path:
    """Store an answer: records, or one letter a point from index 0 on (a dot leaves a point out)."""
    if isinstance(records, str):
        records = [record(index, letter) for index, letter in enumerate(records) if letter != "."]
    folder = run.question_dir(question)
    store.write_question(folder, question)
    store.PointStore(folder, shard).append(records)
    store.write_document(folder, shard, documented(question, records, shard))
    return folder


def recipe(name: str = "toy", **changes: object) -> Recipe:
    """A recipe for the made-up network."""
    content: dict[str, object] = {
        "name": name,
        "summary": "a test",
        "origin": "own",
        "dataset": "mnist",
        "architecture": "cnn",
        "eps": {"l1": 1.0, "l2": 0.3, "linf": 0.1},
        "norm": "union",
    }
    return Recipe.model_validate({**content, **changes})


def trained(root: Path, recipe: Recipe, seed: int = 0, overrides: Sequence[str] = ()) -> RunFolder:
    """A run folder as training leaves it (the weights are no network)."""
    run = run_folder(root, recipe, overrides, seed)
    run.path.mkdir(parents=True)
    run.recipe_file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    run.weights.write_bytes(b"weights")
    return run


def published(**changes: object) -> Mapping[str, object]:
    """A published block: MMR-Universal on MNIST in Table 2 of 001."""
    return {
        "paper": "001",
        "table": "2",
        "points": "first 1000",
        "boxed": None,
        "eps": {"l1": 1.0, "l2": 0.3, "linf": 0.1},
        "test_error": 3.04,
        "lower": {"l1": 6.4, "l2": 6.2, "linf": 12.4, "union": 12.4},
        "upper": {"l1": 20.8, "l2": 10.4, "linf": 17.0, "union": 20.8},
        **changes,
    }
