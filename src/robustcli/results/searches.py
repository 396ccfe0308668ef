"""What each attack for the smallest distance found, and how far from the exact distances: from the records of points.

Where the exact distance d is proved, an attack's ratio is d_attack / d >= 1; sorted downwards they are the curve of 000
Figure 4. Ratios are an attack's own only where it started from scratch at every point (`bound-distance --each`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from robustcli.results.attacks import REPLAY
from robustcli.results.distances import MEETS, distance, misclassified
from robustcli.results.schema import PointRecord, Ratios, SearchFigures

PERCENTILE = 0.95


def by_attack(rows: Sequence[PointRecord]) -> dict[str, SearchFigures] | None:
    """Figures of every attack, known witnesses first, then as they were asked; None where no record tells of any.

    Means and medians are over the points at which every attack found something.
    """
    told = [row for row in rows if not misclassified(row) and row.details.get("upper")]
    if not told:
        return None
    longest = sorted(told, key=lambda row: -len(row.details["upper"]))
    names = sorted(dict.fromkeys(name for row in longest for name in row.details["upper"]), key=lambda n: n != REPLAY)
    asked = {name: [row for row in told if name in row.details["upper"]] for name in names}
    common = {row.index for row in told if all(math.isfinite(reached(row, name)) for name in names if name != REPLAY)}
    return {name: _figures(name, rows, common) for name, rows in asked.items()}


def reached(row: PointRecord, name: str) -> float:
    """Distance of the nearest point that an attack found, inf for none."""
    value = row.details["upper"].get(name, {}).get("distance")
    return math.inf if value is None else float(value)


def nearer(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What two records of one point tell of their attacks, together: of an attack in both, what it found from scratch,
    else the nearer point."""

    def rank(tried: Mapping[str, Any]) -> tuple[bool, float]:
        return tried["start"] is not None, math.inf if tried["distance"] is None else tried["distance"]

    both = {name: min(one[name], other[name], key=rank) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def _figures(name: str, rows: Sequence[PointRecord], common: set[int]) -> SearchFigures:
    tried = [row.details["upper"][name] for row in rows]
    lengths = [reached(row, name) for row in rows if row.index in common and math.isfinite(reached(row, name))]
    return SearchFigures(
        asked=len(rows),
        found=sum(one["distance"] is not None for one in tried),
        nearest=sum(map(_is_nearest, rows, [name] * len(rows))),
        mean=statistics.fmean(lengths) if lengths else None,
        median=statistics.median(lengths) if lengths else None,
        passes=sum(one["passes"] for one in tried),
        seconds=math.fsum(one["seconds"] for one in tried),
        ratio=None if name == REPLAY or any(one["start"] is not None for one in tried) else _ratios(name, rows),
    )


def _is_nearest(row: PointRecord, name: str) -> bool:
    """No other attack found a nearer point; points are alike where their distances meet."""
    own = reached(row, name)
    others = (reached(row, other) for other in row.details["upper"] if other != REPLAY)
    return math.isfinite(own) and own * (1 - MEETS) <= min(others, default=own)


def _ratios(name: str, rows: Sequence[PointRecord]) -> Ratios | None:
    """Of the points whose distance is exact; None where there is none."""
    exact = [(row, distance(row, "lower")) for row in rows if row.exact and 0 < distance(row, "lower") < math.inf]
    curve = sorted((reached(row, name) / known for row, known in exact), reverse=True)
    if not curve:
        return None
    rank = len(curve) - math.ceil(PERCENTILE * len(curve))
    return Ratios(
        points=len(curve),
        median=_finite(statistics.median(curve)),
        percentile_95=_finite(curve[rank]),
        share_above_1_1=sum(ratio > 1.1 for ratio in curve) / len(curve),
        share_above_1_2=sum(ratio > 1.2 for ratio in curve) / len(curve),
        curve=[_finite(ratio) for ratio in curve],
    )


def _finite(value: float) -> float | None:
    """The value, or None for inf."""
    return value if math.isfinite(value) else None
