"""Sums in float32 are off by no more than counted; numbers rounded up are not below."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcli.bounds.summing import additions, gamma, total, upward


@pytest.mark.parametrize("shape", [(1,), (7,), (100,), (2048,), (3, 10, 10), (16, 5, 5), (0,)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_sums_are_as_near_as_counted(shape: tuple[int, ...], memory: torch.memory_format) -> None:
    values = torch.randn(9, *shape, generator=torch.Generator().manual_seed(0))
    values = values.contiguous(memory_format=memory) if len(shape) == 3 else values
    exact = values.double().flatten(1)
    allowed = gamma(additions(exact.shape[1]), torch.float32) * exact.abs().sum(1)
    assert ((total(values).double() - exact.sum(1)).abs() <= allowed).all()
    assert additions(exact.shape[1]) <= max(exact.shape[1] + 1, 2)


def test_square_maps_take_few_roundings() -> None:
    assert additions(4096) == 128


@given(st.floats(-1e30, 1e30))
def test_upward(value: float) -> None:
    exact = torch.tensor([value], dtype=torch.float64)
    found = upward(exact, torch.float32).double()
    assert (found >= exact).all()
    assert (found <= exact + 1e-6 * exact.abs() + 1e-37).all()
