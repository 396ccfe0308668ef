"""What each attack was asked, what it broke and at what cost: counted from the records of the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustcli.results.distances import misclassified
from robustcli.results.schema import AttackFigures, PointRecord

REPLAY = "replay"
"""How the witnesses known before appear among the attacks."""


@dataclass
class _Count:
    asked: int = 0
    broken: int = 0
    first: int = 0
    passes: int = 0
    seconds: float = 0.0


def attack_figures(rows: Sequence[PointRecord]) -> dict[str, AttackFigures] | None:
    """Figures per attack, in the order in which they are asked, known witnesses first; None where no record tells its
    attacks.

    An attack's own lower bound on the robust error is known where it was asked about every correctly classified point.
    """
    told = [row for row in rows if row.details.get("attacks")]
    if not told:
        return None
    counts: dict[str, _Count] = {}
    for row in sorted(told, key=lambda row: -len(row.details["attacks"])):
        for name, tried in row.details["attacks"].items():
            count = counts.setdefault(name, _Count())
            count.asked += 1
            count.broken += tried["broke"]
            count.first += row.verdict == "vulnerable" and row.method == name
            count.passes += tried["passes"]
            count.seconds += tried["seconds"]
    ordered = sorted(counts.items(), key=lambda item: item[0] != REPLAY)
    wrong, right = sum(map(misclassified, rows)), sum(row.method != "clean" for row in rows)

    def alone(count: _Count) -> float | None:
        return (wrong + count.broken) / len(rows) if count.asked == right else None

    return {name: AttackFigures(**vars(count), lower=alone(count)) for name, count in ordered}
