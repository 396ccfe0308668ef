"""Which rows are kept out: the last ones, or of classes stored in turn the last ones of each, in proportion."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from robustcli.data.division import divided


def test_of_labels_in_no_order_the_last_rows() -> None:
    rows, kept = divided(np.array([0, 1, 1, 2, 0, 2]), 2)
    assert_array_equal(rows, [0, 1, 2, 3])
    assert_array_equal(kept, [4, 5])
    rows, kept = divided(np.array([0, 1, 0]), 0)
    assert_array_equal(rows, [0, 1, 2])
    assert len(kept) == 0


def test_of_classes_in_turn_the_last_rows_of_each() -> None:
    rows, kept = divided(np.repeat([0, 1, 2], [8, 4, 4]), 4)
    assert_array_equal(rows, [*range(6), 8, 9, 10, 12, 13, 14])
    assert sorted(kept) == [6, 7, 11, 15]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.data())
def test_every_beginning_of_the_kept_rows_holds_the_classes_in_proportion(
    counts: list[int], data: st.DataObject
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept_out = data.draw(st.integers(0, len(labels)))
    rows, kept = divided(labels, kept_out)
    assert len(kept) == kept_out
    assert_array_equal(np.sort(np.concatenate([rows, kept])), np.arange(len(labels)))
    assert np.all(np.diff(rows) > 0)
    for place, count in enumerate(counts):
        mine = labels[kept] == place
        found, share = np.cumsum(mine), count / max(len(labels), 1)
        # A beginning holds of class i t c_i rows, rounded, t the same for all; so |n - t N| <= K / 2 for its n rows.
        off = np.abs(found - np.arange(1, kept_out + 1) * share)
        assert np.all(off <= 0.5 + share * len(counts) / 2 + 1e-9)
        last = np.flatnonzero(labels == place)[count - int(mine.sum()) :]
        assert_array_equal(np.sort(kept[mine]), last)
