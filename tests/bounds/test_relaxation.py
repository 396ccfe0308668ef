"""The lines around a ReLU hold in exact arithmetic, for the slopes and intercepts as they are stored."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustcli.bounds.relaxation import Rule, adaptive, lines, parallel
from robustcli.bounds.types import Bounds

ENDS = st.floats(-1e15, 1e15, allow_subnormal=True)


def one(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([values], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [adaptive, parallel])
@given(a=ENDS, b=ENDS)
def test_lines_hold_exactly_at_both_ends_and_at_the_kink(rule: Rule, dtype: torch.dtype, a: float, b: float) -> None:
    """relu is convex and piecewise linear: three points decide."""
    bounds = Bounds(one(min(a, b), dtype=dtype), one(max(a, b), dtype=dtype))
    found = lines(bounds, rule(bounds))
    lower, upper, gap = (Fraction(float(part)) for part in (found.lower, found.upper, found.gap))
    low, high = Fraction(float(bounds.lower)), Fraction(float(bounds.upper))
    for z in {low, high} | ({Fraction(0)} if low < 0 < high else set()):
        relu = max(z, Fraction(0))
        assert lower * z <= relu <= upper * z + gap


@given(a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_the_upper_line_touches_both_ends(a: float, b: float) -> None:
    bounds = Bounds(one(-a), one(b))
    found = lines(bounds, adaptive(bounds))
    for z in (-a, b):
        assert float(found.upper * z + found.gap) == pytest.approx(max(z, 0.0), abs=1e-14 * (a + b))


def test_golden_lines() -> None:
    """u / (u - l), -u l / (u - l); CROWN's lower line by the smaller triangle, 1 at the tie."""
    bounds = Bounds(one(-1.0, -3.0, -2.0, 0.5, -1.0, 0.0), one(3.0, 1.0, 2.0, 1.0, 0.0, 0.0))
    found = lines(bounds, adaptive(bounds))
    assert found.lower.tolist() == [[1, 0, 1, 1, 0, 0]]
    assert found.upper.tolist() == [[0.75, 0.25, 0.5, 1, 0, 0]]
    torch.testing.assert_close(found.gap, one(0.75, 0.75, 1, 0, 0, 0), atol=1e-14, rtol=0)
    assert lines(bounds, parallel(bounds)).lower.tolist() == found.upper.tolist()


def test_slopes_that_are_not_sound_are_cut() -> None:
    bounds = Bounds(one(-1.0, -1.0, 1.0), one(1.0, 1.0, 2.0))
    assert lines(bounds, one(-0.5, 1.5, 0.3)).lower.tolist() == [[0, 1, 1]]


def test_bounds_that_are_no_numbers_give_no_lines() -> None:
    for low, high in [
        (math.nan, math.nan),
        (-1.0, math.nan),
        (-math.inf, 1.0),
        (-1.0, math.inf),
        (-math.inf, math.inf),
    ]:
        bounds = Bounds(one(low), one(high))
        found = lines(bounds, adaptive(bounds))
        assert not found.gap.isfinite().any()
