"""Figures of smallest perturbations: overall, by method, and as a histogram (in the manner of 000 Tables 3 and 4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from robustcli.results.schema import Histogram, PointRecord

MEETS = 1e-6
"""Relative difference up to which a proved lower distance and that of a point found count as equal: a misclassified
point lies a little behind the tie whose distance is proved."""
BINS = 20
ORDER = ("region", "boxed", "neighbours", "universal", "kw", "crown", "alpha", "complete")
"""The methods in the order their cumulative best is shown."""


def meet(lower: float, upper: float) -> bool:
    """Whether the two ends of a distance are the distance itself."""
    return math.isfinite(upper) and lower >= upper * (1 - MEETS)


def distance(record: PointRecord, end: str) -> float:
    """The lower or upper end of a distance record; null stands for infinity."""
    value = getattr(record, f"distance_{end}")
    return math.inf if value is None else float(value)


def misclassified(record: PointRecord) -> bool:
    """Whether the clean point is an error: by its verdict, or by its prediction where none was asked (no tie is)."""
    if record.verdict is not None:
        return record.verdict == "misclassified"
    return record.predicted != record.label and record.margin_upper != 0


def distances(rows: Sequence[PointRecord]) -> dict[str, float]:
    """Figures of the smallest perturbations; a key is left out where it has no finite value.

    points, mean_lower, mean_upper, median_lower, median_upper, share_exact: over the correctly classified points (000);
    infinite_lower, infinite_upper: how many of these have no finite bound. Both means are over the points with two
    finite bounds (of one end alone where no point has both);
    mean_lower_all, mean_upper_all: over all points, misclassified ones counting as 0 (001).
    """
    right = [row for row in rows if not misclassified(row)]
    figures: dict[str, float] = {"points": len(right)}
    if right:
        figures["share_exact"] = sum(bool(row.exact) for row in right) / len(right)
    both = [row for row in right if all(math.isfinite(distance(row, end)) for end in ("lower", "upper"))]
    for end in ("lower", "upper"):
        values = [distance(row, end) for row in right]
        figures[f"infinite_{end}"] = sum(map(math.isinf, values))
        finite = [distance(row, end) for row in both] or [value for value in values if math.isfinite(value)]
        if finite:
            figures[f"mean_{end}"] = statistics.fmean(finite)
            figures[f"mean_{end}_all"] = math.fsum(finite) / (len(finite) + len(rows) - len(right))
        if values and math.isfinite(median := statistics.median(values)):
            figures[f"median_{end}"] = median
    return figures


def distance_figures(rows: Sequence[PointRecord]) -> dict[str, Any]:
    """The fields of a summary that are about distances."""
    return {"distance": distances(rows), "methods": by_method(rows), "histogram": histogram(rows)}


def by_method(rows: Sequence[PointRecord]) -> dict[str, dict[str, float]]:
    """Figures of every lower bound alone, and of the best of it and those before it, over correctly classified points.

    mean, median: of the lower bound; share_exact: points at which it meets the nearest misclassified point found;
    best_mean, best_share_exact: the same for the best so far. Means are over the points at which every bound is finite.
    """
    right = [row for row in rows if not misclassified(row) and row.details.get("lower")]
    known = dict.fromkeys(name for row in right for name in row.details["lower"])
    names = [*(name for name in ORDER if name in known), *(name for name in known if name not in ORDER)]
    finite = [all(math.isfinite(_alone(row, name)) for name in names) for row in right]
    best = [0.0] * len(right)
    uppers = [distance(row, "upper") for row in right]
    found = {}
    for name in names:
        alone = [_alone(row, name) for row in right]
        best = [max(pair) for pair in zip(best, alone, strict=True)]
        found[name] = {
            **_figures(alone, uppers, finite),
            **{f"best_{key}": value for key, value in _figures(best, uppers, finite).items() if key != "median"},
        }
    return found


def _alone(row: PointRecord, name: str) -> float:
    """The lower bound of one method, 0 where it was not asked."""
    value = row.details["lower"].get(name, 0.0)
    return math.inf if value is None else float(value)


def _figures(lowers: Sequence[float], uppers: Sequence[float], kept: Sequence[bool]) -> dict[str, float]:
    figures = {"share_exact": sum(map(meet, lowers, uppers)) / len(lowers)}
    if any(kept):
        figures["mean"] = statistics.fmean(value for value, keep in zip(lowers, kept, strict=True) if keep)
    if math.isfinite(median := statistics.median(lowers)):
        figures["median"] = median
    return figures


def histogram(rows: Sequence[PointRecord]) -> Histogram | None:
    """How many correctly classified points have their lower and upper distances in each of `BINS` equal bins from 0 to
    the largest finite one; infinite ones are in no bin."""
    right = [row for row in rows if not misclassified(row)]
    ends = {end: [value for row in right if math.isfinite(value := distance(row, end))] for end in ("lower", "upper")}
    last = max([*ends["upper"], *ends["lower"]], default=0.0)
    if not last > 0:
        return None
    counts = {end: [0] * BINS for end in ends}
    for end, values in ends.items():
        for value in values:
            counts[end][min(int(value / last * BINS), BINS - 1)] += 1
    return Histogram(last=last, **counts)
