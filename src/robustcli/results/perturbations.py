"""The rows of the second table: smallest perturbations, by norm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import Field

from robustcli.results import store
from robustcli.results.merge import Answers
from robustcli.results.models import Model
from robustcli.results.rows import Source, source, span
from robustcli.results.schema import PointRecord, Record


class DistanceRow(Record):
    """One line of the table of smallest perturbations; the figures are those of `robustcli.results.store.distances`."""

    name: str
    recipe: str | None
    seed: int | None
    model: str
    dataset: str
    boxed: bool
    points: int
    range: str
    norms: dict[str, dict[str, float]]
    sources: list[Source] = Field(default=[])


def distance_rows(model: Model) -> list[DistanceRow]:
    """The smallest perturbations of one model: a row a set of points; the best bounds of all questions combined."""
    found: dict[tuple[bool, frozenset[int]], dict[str, list[Answers]]] = defaultdict(dict)
    for answer in model.answers:
        if answer.question.command == "bound-distance":
            norms = found[answer.question.boxed, frozenset(answer.lines)]
            norms.setdefault(answer.question.norm, []).append(answer)
    return [
        DistanceRow(
            **model.identity,
            boxed=boxed,
            points=len(points),
            range=span(points),
            norms={norm: store.distances(_best(answers)) for norm, answers in norms.items()},
            sources=[source(answer) for answers in norms.values() for answer in answers],
        )
        for (boxed, points), norms in found.items()
    ]


def _best(answers: Sequence[Answers]) -> list[PointRecord]:
    """The largest lower and the smallest upper distance of each point over several answers."""
    best: dict[int, PointRecord] = {}
    for record in (record for answer in answers for record in answer.records):
        other = best.get(record.index)
        if other is not None:
            lowers = [store.distance(one, "lower") for one in (other, record)]
            uppers = [store.distance(one, "upper") for one in (other, record)]
            exact = bool(other.exact or record.exact)
            update = {"distance_lower": max(lowers), "distance_upper": min(uppers), "exact": exact}
            record = record.model_copy(update=update)
        best[record.index] = record
    return list(best.values())
