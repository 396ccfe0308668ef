"""Who decided what: the stages of a cascade, counted from the records of its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustcli.results.schema import PointRecord, StageFigures

SEARCHES = frozenset({"attack", "branch-and-bound"})
"""The stages that look for misclassified inputs."""


@dataclass
class _Count:
    asked: int = 0
    robust: int = 0
    vulnerable: int = 0
    seconds: float = 0.0


def stage_figures(rows: Sequence[PointRecord]) -> dict[str, StageFigures] | None:
    """Figures per stage, in the order of the point that saw most of them; None where no record tells its stages."""
    told = [row for row in rows if row.details.get("stages")]
    if not told:
        return None
    fullest = max(told, key=lambda row: len(row.details["stages"]))
    counts: dict[str, _Count] = {name: _Count() for name in fullest.details["stages"]}
    for row in told:
        for name, seconds in row.details["stages"].items():
            count = counts.setdefault(name, _Count())
            count.asked += 1
            count.seconds += seconds
        if row.verdict in ("robust", "vulnerable"):
            decided = counts[row.method]
            decided.robust += row.verdict == "robust"
            decided.vulnerable += row.verdict == "vulnerable"
    return {name: StageFigures(**vars(count)) for name, count in counts.items()}
