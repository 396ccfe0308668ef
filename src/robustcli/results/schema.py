"""What every result file means: the published schema `robustcli.result/1`.

A run folder holds, for every question asked of its network,

    results/<question.slug>/points[-shard-i-of-n].jsonl    one PointRecord a line, appended as decided
    results/<question.slug>/result[-shard-i-of-n].json     one ResultDocument
    witnesses/                                             adversarial inputs, float64 arrays, named by content
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Final = "robustcli.result/1"
Verdict = Literal["robust", "vulnerable", "misclassified", "unknown"]
Command = Literal["attack", "certify", "mip-verify", "bound-distance"]


class Record(BaseModel):
    """Base of all stored objects: unknown keys are errors, infinities are written as null."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(Record):
    """What is asked, apart from which points: two records answer the same question exactly when this is equal.

    `model` is the hash of architecture and weights (`Network.weights_hash`), `data` the hash of the evaluated split.
    """

    command: Command
    norm: str = Field(description="l1, l2, linf, or l<p> for another p >= 1 (bound-distance)")
    eps: float | None = Field(description="radius; null for bound-distance")
    boxed: bool = Field(description="the ball is cut with the input box")
    model: str
    data: str
    settings: dict[str, Any] = Field(default={}, description="everything else that changes an answer")

    @property
    def key(self) -> str:
        """Hash of the whole question."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def slug(self) -> str:
        """Folder name: readable, unique per question."""
        eps = "" if self.eps is None else f"-{self.eps:.6g}"
        return f"{self.command}-{self.norm}{eps}-{'box' if self.boxed else 'nobox'}-{self.key[:8]}"


class PointRecord(Record):
    """The answer for one test point. Margins are f_y - f_t in logits, over all targets t != y."""

    index: int = Field(ge=0, description="row in the stored test order")
    label: int
    predicted: int
    verdict: Verdict | None = Field(description="null for bound-distance, which asks no yes-no question")
    method: str = Field(description="what decided (unknown: what was asked last), e.g. clean, apgd-wide, dual, highs")
    margin_lower: float | None = Field(None, description="proved lower bound on the smallest margin over the ball")
    margin_upper: float | None = Field(None, description="float64 margin of the witness (or of the clean point)")
    distance_lower: float | None = Field(None, description="proved lower bound on the smallest perturbation; null: inf")
    distance_upper: float | None = Field(None, description="norm of the nearest misclassified point found")
    exact: bool | None = Field(None, description="the two distances meet: the exact distance, up to 1e-6")
    witness: str | None = Field(None, description="file name under witnesses/")
    reason: str | None = Field(None, description="why unknown: time-out, tie, gap, solver status")
    seconds: float = Field(ge=0)
    made_by: str | None = Field(None, description="the robustcli that answered: version, and commit in a checkout")
    details: dict[str, Any] = Field(default={}, description="per method: bounds, nodes, unstable units, ...")


class Histogram(Record):
    """Counts of correctly classified points by their distances, in equal bins from 0 to `last`."""

    last: float = Field(gt=0, description="end of the last bin")
    lower: list[int] = Field(description="points by proved lower bound")
    upper: list[int] = Field(description="points by the nearest misclassified point found")


class StageFigures(Record):
    """What one stage of `certify` did."""

    asked: int = Field(description="points it was asked about")
    robust: int = Field(description="points it decided: the last margin was proved")
    vulnerable: int = Field(description="points it decided: a misclassified input was found")
    seconds: float


class AttackFigures(Record):
    """What one attack of `attack` did. `replay`: the witnesses known before."""

    asked: int = Field(description="points it was asked about")
    broken: int = Field(description="points it found a misclassified input for")
    first: int = Field(description="points that it broke before any other attack did")
    passes: int = Field(description="forward and backward passes, all points together")
    seconds: float
    lower: float | None = Field(
        None,
        description="the attack's own lower bound on the robust error; null: not asked about all points",
    )


class Ratios(Record):
    """Distances that an attack found over exact ones, at the points whose distance is exact. Null: found nothing."""

    points: int = Field(gt=0)
    median: float | None
    percentile_95: float | None = Field(description="95 % of the points have at most this ratio")
    share_above_1_1: float
    share_above_1_2: float
    curve: list[float | None] = Field(description="the ratio of every point, largest first")


class SearchFigures(Record):
    """What one attack of `bound-distance` did. `replay`: the witnesses known before."""

    asked: int = Field(description="points it was asked about")
    found: int = Field(description="points it found a misclassified input for")
    nearest: int = Field(description="points for which no attack found a nearer one, up to 1e-6")
    mean: float | None = Field(description="of its distances, over the points at which every attack found something")
    median: float | None
    passes: int = Field(description="forward and backward passes, all points together")
    seconds: float
    ratio: Ratios | None = Field(None, description="null: it started from points known before, or no distance is exact")


class Detection(Record):
    """Adversarial inputs told by the missing certificate of their predicted class (003 Corollary 2).

    An input is flagged unless every input within eps of it is provably of its predicted class.
    """

    clean: int = Field(description="test points")
    clean_flagged: int
    misclassified: int = Field(description="test points of a wrong class, counted in `clean` too")
    misclassified_flagged: int
    adversarial: int = Field(description="stored misclassified inputs within eps of a correctly classified test point")
    adversarial_flagged: int = Field(description="all of them, or the certificate is wrong")


class Summary(Record):
    """Figures over the answered points. Errors are fractions in [0, 1]; misclassified points count in all of them."""

    points: int
    requested: int
    test_error: float
    robust_error_lower: float | None = Field(None, description="misclassified or vulnerable")
    robust_error_upper: float | None = Field(None, description="not proved robust")
    verdicts: dict[Verdict, int] = {}
    distance: dict[str, float] | None = Field(None, description="mean_lower, mean_upper, share_exact, ...")
    methods: dict[str, dict[str, float]] | None = Field(
        None, description="bound-distance: per method mean, median, share_exact alone; best_*: the best so far"
    )
    searches: dict[str, SearchFigures] | None = Field(
        None, description="bound-distance: per attack, in the order they were asked"
    )
    histogram: Histogram | None = Field(None, description="bound-distance: how the distances are distributed")
    stages: dict[str, StageFigures] | None = Field(None, description="certify: per stage, in the order they were asked")
    attacks: dict[str, AttackFigures] | None = Field(
        None, description="attack: per attack, in the order they were asked"
    )
    detection: Detection | None = Field(None, description="certify --detect: inputs flagged as possibly adversarial")
    seconds: float


class Provenance(Record):
    """How a result was made."""

    recipe: str | None
    recipe_hash: str | None
    overrides: list[str] = []
    checkpoint: str
    architecture: str
    dataset: str
    split: str
    partial: str | None = Field(None, description="which rows of the official split are missing, if any")
    seed: int
    points: str = Field(description="which points were asked for, `a:b`")
    shard: str | None = None
    made_by: dict[str, int] = Field(
        {}, description="points by the robustcli that answered them; a rerun keeps what an earlier version answered"
    )
    versions: dict[str, str]
    commit: str | None
    hardware: str
    device: str
    dtype: str
    threads: int
    command_line: str
    started: str
    finished: str


class ResultDocument(Record):
    """One `result.json`."""

    schema_: Literal["robustcli.result/1"] = Field(default=SCHEMA, alias="schema")
    question: Question
    summary: Summary
    provenance: Provenance
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)


class EpochRecord(Record):
    """One line of a run's `metrics.jsonl`."""

    epoch: int = Field(ge=1)
    steps: int = Field(ge=1, description="optimiser steps done since the start of training")
    learning_rate: float
    loss: float
    train_error: float = Field(description="share of training points misclassified as they were used")
    parts: dict[str, float] = Field(default={}, description="mean of each part of the loss")
    test_error: float | None = None
    certified_error: dict[str, float] = Field(
        default={}, description="share of held-out training rows that interval bounds leave open, per norm and union"
    )
    seconds: float = Field(description="of this epoch")


class EvaluationRecord(Record):
    """One line of a run's `evaluations.jsonl`: bounds on the robust error of the network after an epoch."""

    epoch: int = Field(ge=1)
    model: str = Field(description="hash of architecture and weights")
    points: int = Field(ge=1, description="the first N test points")
    error: float = Field(description="share of these points misclassified")
    eps: dict[str, float] = Field(description="radius per norm")
    boxed: bool = Field(description="the balls are cut with the input box")
    upper: dict[str, float] = Field(
        description="share not certified by the KW dual bound, per norm; union: not certified in at least one of them"
    )
    seconds: float


def json_schema() -> dict[str, Any]:
    """JSON schema of all stored objects, by name."""
    kinds: dict[str, type[Record]] = {
        "result": ResultDocument,
        "point": PointRecord,
        "epoch": EpochRecord,
        "evaluation": EvaluationRecord,
    }
    return {"$id": SCHEMA, **{name: kind.model_json_schema(by_alias=True) for name, kind in kinds.items()}}


def canonical(value: Any) -> str:
    """JSON text with sorted keys, for hashing and comparing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
