"""Lists of seeds as users write them."""

from __future__ import annotations

import pytest

from robustcli.errors import UsageError
from robustcli.results.seeds import several, spread


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", [0, 1, 2, 3, 4]), ("0,3,7", [0, 3, 7]), ("7, 0-2,1", [0, 1, 2, 7]), ("5", [5]), ("3-3", [3])],
)
def test_lists_and_ranges(text: str, seeds: list[int]) -> None:
    assert several(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4-1", "0,,1", "-1", "0-1-2", "1.5"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no list of seeds"):
        several(text)


def test_mean_and_deviation() -> None:
    assert spread([1.0, 3.0, 5.0]) == (3.0, 2.0)
    assert spread([4.0]) == (4.0, None)
