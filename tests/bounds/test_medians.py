"""The median by comparators is the sorted one, for every count, and its gradient goes where torch's goes."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.bounds.medians import CHUNK, comparators, median_size


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 50, 64, 65])
def test_is_the_sorted_middle(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(3, count, 5, 7, generator=generator)
    wanted = values.abs().sort(1).values[:, (count - 1) // 2]
    assert torch.equal(median_size(values), wanted)
    assert torch.equal(median_size(values), values.abs().median(1).values)


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_every_pattern_of_zeros_and_ones(count: int) -> None:
    """A network of comparators selects right exactly when it does so for these (the 0-1 principle)."""
    values = (torch.arange(2**count).unsqueeze(1) >> torch.arange(count) & 1).float()
    assert torch.equal(median_size(values), values.sort(1).values[:, (count - 1) // 2])


def test_more_entries_than_a_chunk_and_none() -> None:
    values = torch.randn(2, 3, CHUNK, generator=torch.Generator().manual_seed(0))
    assert torch.equal(median_size(values), values.abs().median(1).values)
    assert median_size(values[:, :, :0]).shape == (2, 0)


def test_gradient_is_torchs() -> None:
    values = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine, theirs = median_size(values), values.abs().median(1).values
    gradients = [torch.autograd.grad((found * weights).sum(), values)[0] for found in (mine, theirs)]
    assert torch.equal(*gradients)


def test_ties_share_and_zeros_have_no_gradient() -> None:
    values = torch.tensor([[3.0, -2.0, 2.0, 0.5, 1.0]], requires_grad=True)
    median_size(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, -0.5, 0.5, 0.0, 0.0]]
    zeros = torch.zeros(1, 4, requires_grad=True)
    median_size(zeros).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.tolist() == [[0.0] * 4]


def test_what_is_no_number_stays_none() -> None:
    assert math.isnan(median_size(torch.tensor([[1.0, math.nan, 2.0, 3.0]])).item())


def test_comparators_are_few() -> None:
    assert len(comparators(50, 24)) == 325
