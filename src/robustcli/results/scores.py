"""Scoring rules (methods: 000 section 5, 001 section 5): errors over a common set of points.

For norm p, point i is attacked when it is misclassified or shown vulnerable, certified when it is shown robust.

    LB_p = mean attacked_p            UB_p = 1 - mean certified_p
    LB   = mean any_p attacked_p      UB   = 1 - mean all_p certified_p        (union of the norms)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from robustcli.errors import ContradictionError
from robustcli.results.schema import Summary, Verdict

ATTACKED: frozenset[Verdict] = frozenset({"misclassified", "vulnerable"})
UNION = "union"


def test_error(verdicts: Mapping[int, Verdict], points: Collection[int]) -> float:
    """Share of the points that are misclassified."""
    return sum(verdicts[index] == "misclassified" for index in points) / len(points)


def lower(verdicts: Mapping[int, Verdict], points: Collection[int]) -> float:
    """Lower bound on the robust error: share attacked."""
    return sum(verdicts[index] in ATTACKED for index in points) / len(points)


def upper(verdicts: Mapping[int, Verdict], points: Collection[int]) -> float:
    """Upper bound on the robust error: share not certified."""
    return sum(verdicts[index] != "robust" for index in points) / len(points)


def union_verdicts(norms: Collection[Mapping[int, Verdict]], points: Collection[int]) -> dict[int, Verdict]:
    """One verdict a point for the union of the balls: robust in all, or the worst found in any."""
    worst: dict[int, Verdict] = {}
    for index in points:
        found = {verdicts[index] for verdicts in norms}
        worst[index] = next(
            verdict for verdict in ("misclassified", "vulnerable", "unknown", "robust") if verdict in found
        )
    return worst


def union_summary(summaries: Sequence[Summary], norms: Sequence[Mapping[int, Verdict | None]]) -> Summary:
    """The summary for the union of the balls, over the points that every norm has answered.

    Args:
        summaries: one a norm.
        norms: verdicts of each, by point.
    """
    points = set.intersection(*(set(verdicts) for verdicts in norms))
    known = [{index: verdict for index, verdict in verdicts.items() if verdict is not None} for verdicts in norms]
    found = union_verdicts(known, points)
    counts = Counter(found.values())
    proves = all(summary.robust_error_upper is not None for summary in summaries)
    return Summary(
        points=len(points),
        requested=min(summary.requested for summary in summaries),
        test_error=test_error(found, points) if points else 0.0,
        robust_error_lower=lower(found, points) if points else None,
        robust_error_upper=upper(found, points) if points and proves else None,
        verdicts=dict(counts),
        seconds=sum(summary.seconds for summary in summaries),
    )


def check_order(test: float | None, lowers: Mapping[str, float], uppers: Mapping[str, float]) -> None:
    """The order that holds on any common set of points: TE <= LB <= UB, and the union is at least each norm.

    Raises:
        ContradictionError: when figures break it, which only contradicting records can do.
    """
    for norm, value in lowers.items():
        if test is not None and test > value:
            raise ContradictionError(f"{norm}: test error {test:g} above the robust error's lower bound {value:g}")
        if norm in uppers and value > uppers[norm]:
            raise ContradictionError(f"{norm}: lower bound {value:g} above upper bound {uppers[norm]:g}")
    for bounds in (lowers, uppers):
        for norm, value in bounds.items():
            if UNION in bounds and value > bounds[UNION]:
                raise ContradictionError(f"{norm}: bound {value:g} above the union's {bounds[UNION]:g}")
