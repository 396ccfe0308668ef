"""The rows of the report: one a model and set of points, with the figures of every norm measured on these points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal

from pydantic import Field

from robustcli.norms import NORMS
from robustcli.recipes.model import Published, Recipe
from robustcli.results import merge, scores
from robustcli.results.merge import Answers, Ball, Verdicts
from robustcli.results.models import Model
from robustcli.results.schema import Question, Record


class Source(Record):
    """A question whose answers went into a row."""

    folder: str
    question: Question
    points: int
    methods: dict[str, int] = Field(description="how many points each method decided")
    seconds: float
    provenance: list[dict[str, Any]] = Field(description="of each shard's result document")


class Row(Record):
    """One line of the table. Errors are fractions in [0, 1]; a figure that was not measured is absent."""

    kind: Literal["run", "mean", "sd", "published"]
    name: str = Field(description="run folder, or the paper's table")
    recipe: str | None = None
    seed: int | None = None
    seeds: int | None = Field(default=None, description="how many seeds a mean or standard deviation is over")
    model: str | None = Field(default=None, description="hash of architecture and weights")
    dataset: str
    partial: str | None = Field(default=None, description="which rows of the official split are missing, if any")
    eps: dict[str, float]
    boxed: bool | None = Field(description="the balls are cut with the input box; null: some are (published rows)")
    points: int | None
    range: str = Field(description="`a:b`, `n of a:b`, or the paper's words")
    test_error: float | None = Field(default=None, description="on all points any command has classified")
    test_error_range: str | None = None
    test_error_here: float | None = Field(default=None, description="on the points of this row")
    lower: dict[str, float] = Field(default={}, description="norm or union -> lower bound on the robust error")
    upper: dict[str, float] = Field(default={}, description="norm or union -> upper bound on the robust error")
    notes: list[str] = Field(default=[])
    sources: list[Source] = Field(default=[])


def radii(source: Recipe | Published) -> dict[str, float]:
    """eps by norm."""
    return {str(norm): eps for norm, eps in source.eps.items()}


def span(points: Iterable[int]) -> str:
    """A set of indices as `a:b`, or `n of a:b` when there are holes."""
    indices = sorted(points)
    text = f"{indices[0]}:{indices[-1] + 1}"
    return text if indices[-1] + 1 - indices[0] == len(indices) else f"{len(indices)} of {text}"


def rows(model: Model) -> list[Row]:
    """All rows of one model: a row a set of points on which some figures were measured, per eps and kind of ball.

    An unboxed row that repeats the boxed one is left out.
    """
    found: list[Row] = []
    for boxed in (True, False):
        asked = [ball for ball in merge.balls(model.answers) if ball.boxed == boxed]
        for triple in _triples(asked, model.recipe):
            found += _rows(model, {ball.norm: merge.verdicts(model.answers, ball) for ball in triple})
    shown: list[Row] = []
    for row in found:
        figures = (row.eps, row.range, row.lower, row.upper)
        if not any(figures == (other.eps, other.range, other.lower, other.upper) for other in shown):
            shown.append(row)
    return shown


def _triples(balls: Sequence[Ball], recipe: Recipe | None) -> list[list[Ball]]:
    """Share the balls out over rows, one a norm: the recipe's radii first, then the others from small to large."""
    wanted = radii(recipe) if recipe else {}
    ordered = {
        norm: sorted(group, key=lambda ball: (ball.eps != wanted.get(ball.norm), ball.eps))
        for norm, group in groupby(balls, key=lambda ball: ball.norm)
    }
    count = max(map(len, ordered.values()), default=0)
    return [[group[place] for group in ordered.values() if place < len(group)] for place in range(count)]


def _rows(model: Model, norms: dict[str, Verdicts]) -> list[Row]:
    """The rows of one combination of balls: every figure on the points of the row, the fullest rows first."""
    candidates: set[frozenset[int]] = set()
    for found in norms.values():
        for points in (found.attacked, found.verified):
            candidates |= {points & other for other in candidates} | {points}
    candidates.discard(frozenset())
    figures = {points: _measured(norms, points) for points in candidates}
    kept = [
        points
        for points, mine in figures.items()
        if not any(points < other and mine <= theirs for other, theirs in figures.items())
    ]
    kept.sort(key=lambda points: (-len(figures[points]), -len(points), min(points)))
    return [_row(model, norms, points, figures[points]) for points in kept]


def _measured(norms: dict[str, Verdicts], points: frozenset[int]) -> frozenset[tuple[str, str]]:
    """The figures (norm, end) that were asked for on every one of the points."""
    found = {(norm, "lower") for norm, verdicts in norms.items() if points <= verdicts.attacked}
    found |= {(norm, "upper") for norm, verdicts in norms.items() if points <= verdicts.verified}
    return frozenset(found)


def _row(model: Model, norms: dict[str, Verdicts], points: frozenset[int], measured: frozenset[tuple[str, str]]) -> Row:
    lower = {norm: scores.lower(norms[norm].verdicts, points) for norm in norms if (norm, "lower") in measured}
    upper = {norm: scores.upper(norms[norm].verdicts, points) for norm in norms if (norm, "upper") in measured}
    for end, figure in ((lower, scores.lower), (upper, scores.upper)):
        if set(NORMS) <= set(end):
            union = scores.union_verdicts([norms[norm].verdicts for norm in NORMS], points)
            end[scores.UNION] = figure(union, points)
    used = [norm for norm in norms if norm in lower or norm in upper]
    here = scores.test_error(norms[used[0]].verdicts, points)
    scores.check_order(here, lower, upper)
    classified = model.classified
    ball = norms[used[0]].ball
    range_, everywhere = span(points), span(classified)
    keys = {(norm, norms[norm].ball.eps) for norm in used}
    return Row(
        kind="run",
        **model.identity,
        partial=model.partial,
        eps={norm: norms[norm].ball.eps for norm in used},
        boxed=ball.boxed,
        points=len(points),
        range=range_,
        test_error=sum(classified.values()) / len(classified),
        test_error_range=everywhere,
        test_error_here=here,
        lower=lower,
        upper=upper,
        notes=_notes(model, range_, everywhere),
        sources=[source(answer) for answer in model.answers if (answer.question.norm, answer.question.eps) in keys],
    )


def _notes(model: Model, range_: str, everywhere: str) -> list[str]:
    notes = [] if range_ == everywhere else [f"TE over the points {everywhere}"]
    if model.overrides:
        notes.append("recipe changed by " + ", ".join(model.overrides))
    if model.partial:
        notes.append(f"data: {model.partial}")
    if model.replaced:
        notes.append("earlier weights of this run, replaced since")
    return notes


def source(answer: Answers) -> Source:
    """What a report says about where its figures come from."""
    records = answer.records
    return Source(
        folder=answer.folder.name,
        question=answer.question,
        points=len(records),
        methods=dict(Counter(record.method for record in records).most_common()),
        seconds=sum(record.seconds for record in records),
        provenance=[document.provenance.model_dump(mode="json") for document in answer.documents],
    )
