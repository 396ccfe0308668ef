"""Scoring rules: the order TE <= LB <= UB, and the union above every norm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcli.errors import ContradictionError
from robustcli.results import scores
from robustcli.results.schema import Verdict

NORMS = ("l1", "l2", "linf")


@st.composite
def tables(draw: st.DrawFn) -> dict[str, dict[int, Verdict]]:
    """Verdicts of three norms on common points; a misclassified point is so for every norm."""
    count = draw(st.integers(1, 25))
    wrong = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    other = st.sampled_from(("robust", "vulnerable", "unknown"))
    return {norm: {i: "misclassified" if wrong[i] else draw(other) for i in range(count)} for norm in NORMS}


@given(tables())
@settings(max_examples=80, deadline=None)
def test_order_of_all_figures(table: dict[str, dict[int, Verdict]]) -> None:
    points = table["l1"].keys()
    union = scores.union_verdicts(list(table.values()), points)
    lowers = {norm: scores.lower(verdicts, points) for norm, verdicts in {**table, "union": union}.items()}
    uppers = {norm: scores.upper(verdicts, points) for norm, verdicts in {**table, "union": union}.items()}
    test = scores.test_error(table["l2"], points)
    assert all(test <= lowers[norm] <= uppers[norm] for norm in lowers)
    assert lowers["union"] >= max(lowers[norm] for norm in NORMS)
    assert uppers["union"] >= max(uppers[norm] for norm in NORMS)
    assert uppers["union"] <= min(1, sum(uppers[norm] for norm in NORMS))
    scores.check_order(test, lowers, uppers)


@given(tables())
@settings(max_examples=40, deadline=None)
def test_union_is_any_attacked_and_all_certified(table: dict[str, dict[int, Verdict]]) -> None:
    """The two means of section 9, written out."""
    points = list(table["l1"])
    union = scores.union_verdicts(list(table.values()), points)
    attacked = [any(table[norm][i] in ("misclassified", "vulnerable") for norm in NORMS) for i in points]
    certified = [all(table[norm][i] == "robust" for norm in NORMS) for i in points]
    assert scores.lower(union, points) == pytest.approx(sum(attacked) / len(points))
    assert scores.upper(union, points) == pytest.approx(1 - sum(certified) / len(points))


@pytest.mark.parametrize(
    ("test", "lowers", "uppers"),
    [
        (0.2, {"l1": 0.1}, {}),
        (None, {"l1": 0.3}, {"l1": 0.2}),
        (None, {"l1": 0.3, "union": 0.2}, {}),
        (None, {}, {"l1": 0.3, "union": 0.2}),
    ],
)
def test_broken_order_is_an_error(test: float | None, lowers: dict[str, float], uppers: dict[str, float]) -> None:
    with pytest.raises(ContradictionError):
        scores.check_order(test, lowers, uppers)
