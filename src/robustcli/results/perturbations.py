"""The rows of the second table: smallest perturbations, by norm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import Field

from robustcli.results import distances
from robustcli.results.merge import Answers
from robustcli.results.models import Model
from robustcli.results.rows import Source, source, span
from robustcli.results.schema import PointRecord, Record, SearchFigures
from robustcli.results.searches import by_attack, nearer


class DistanceRow(Record):
    """One line of the table of smallest perturbations; the figures are those of `robustcli.results.distances`."""

    name: str
    recipe: str | None
    seed: int | None
    model: str
    dataset: str
    boxed: bool
    points: int
    range: str
    norms: dict[str, dict[str, float]]
    methods: dict[str, dict[str, dict[str, float]]] = Field(
        default={}, description="per norm and method: see `robustcli.results.distances.by_method`"
    )
    attacks: dict[str, dict[str, SearchFigures]] = Field(
        default={}, description="per norm and attack: see `robustcli.results.searches.by_attack`"
    )
    sources: list[Source] = Field(default=[])


def distance_rows(model: Model) -> list[DistanceRow]:
    """The smallest perturbations of one model: a row a set of points; the best bounds of all questions combined."""
    asked: dict[tuple[bool, frozenset[int]], dict[str, list[Answers]]] = defaultdict(dict)
    for answer in model.answers:
        if answer.question.command == "bound-distance":
            norms = asked[answer.question.boxed, frozenset(answer.lines)]
            norms.setdefault(answer.question.norm, []).append(answer)
    rows = []
    for (boxed, points), norms in asked.items():
        best = {norm: _best(answers) for norm, answers in norms.items()}
        rows.append(
            DistanceRow(
                **model.identity,
                boxed=boxed,
                points=len(points),
                range=span(points),
                norms={norm: distances.distances(records) for norm, records in best.items()},
                methods={norm: figures for norm, records in best.items() if (figures := distances.by_method(records))},
                attacks={norm: found for norm, records in best.items() if (found := by_attack(records))},
                sources=[source(answer) for answers in norms.values() for answer in answers],
            )
        )
    return rows


def _best(answers: Sequence[Answers]) -> list[PointRecord]:
    """The largest lower and the smallest upper distance of each point over several answers."""
    best: dict[int, PointRecord] = {}
    for record in (record for answer in answers for record in answer.records):
        other = best.get(record.index)
        if other is not None:
            lowers = [distances.distance(one, "lower") for one in (other, record)]
            uppers = [distances.distance(one, "upper") for one in (other, record)]
            exact = bool(other.exact or record.exact) or distances.meet(max(lowers), min(uppers))
            update = {
                "distance_lower": max(lowers),
                "distance_upper": min(uppers),
                "exact": exact,
                "details": {
                    "lower": _larger(*(one.details.get("lower", {}) for one in (other, record))),
                    "upper": nearer(*(one.details.get("upper", {}) for one in (other, record))),
                },
            }
            record = record.model_copy(update=update)
        best[record.index] = record
    return list(best.values())


def _larger(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float | None]:
    """The larger bound of each method; None stands for infinity."""
    common = one.keys() & other.keys()
    both = {name: (one[name], other[name]) for name in common}
    return {**one, **other, **{name: None if None in pair else max(pair) for name, pair in both.items()}}  # type: ignore[type-var]
