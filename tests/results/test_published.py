"""The papers' figures in our words: where they stand, average distances."""

from __future__ import annotations

import pytest

from robustcli.recipes.model import Distances
from robustcli.results.published import distance_words, place


@pytest.mark.parametrize(
    ("table", "words"),
    [("1", "Table 1"), ("3, 5", "Tables 3, 5"), ("2-5", "Tables 2-5"), ("appendix C", "appendix C")],
)
def test_places(table: str, words: str) -> None:
    assert place(table) == words


def test_distances_in_words() -> None:
    full = Distances(lower=0.69, upper=1.69, region=0.22, neighbours=0.29, exact=0.2, exact_over_lower=14.11)
    assert distance_words(full) == [
        "average l2 distance: lower 0.69, upper 1.69",
        "lower bounds from regions: Theorem 3.1 0.22, neighbouring regions too 0.29",
        "distance exact for 0.2 % of the test set, 14.11 % above KW's bound",
    ]
    assert distance_words(Distances(lower=0.04, upper=1.03, exact=0)) == [
        "average l2 distance: lower 0.04, upper 1.03",
        "distance exact for 0 % of the test set",
    ]
    assert distance_words(None) == []
