"""Closed-form row norms of one block against the rows themselves; padding is cut at the border."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.networks.layers import AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Normalise
from robustcli.networks.network import Block
from robustcli.regions.first_layer import generic_norms, row_norms

BLOCKS = {
    "dense": [Linear(7, 5)],
    "flat": [Flatten((2, 3, 3)), Linear(18, 4)],
    "normalised-dense": [Normalise((2, 3, 3), [0.1, 0.2], [0.5, 2.0]), Flatten((2, 3, 3)), Linear(18, 4)],
    "conv": [Conv2d((2, 7, 6), 3, 4, 2, 1)],
    "wide-padding": [Conv2d((1, 4, 5), 3, 5, 1, 3)],
    "normalised-conv": [Normalise((2, 7, 6), [0.1, 0.2], [0.5, 2.0]), Conv2d((2, 7, 6), 3, 3, 1, 1)],
    "conv-batchnorm": [Conv2d((2, 6, 6), 3, 3, 1, 1), BatchNorm((3, 6, 6))],
    "pooled": [Conv2d((1, 6, 6), 2, 3, 1, 1), AvgPool2d((2, 6, 6), 2)],
    "two-dense": [Linear(6, 4), Linear(4, 3)],
}


@pytest.mark.parametrize("q", [1, 2, 3, math.inf])
@pytest.mark.parametrize("name", BLOCKS)
def test_closed_forms(name: str, q: float) -> None:
    torch.manual_seed(0)
    block = Block([layer.double().eval() for layer in BLOCKS[name]])
    for layer in block.layers:
        for weight in layer.parameters():
            weight.data.normal_()
    basis = torch.eye(math.prod(block.in_shape), dtype=torch.float64).view(-1, *block.in_shape)
    rows = block.linear(basis).flatten(1).T
    expected = torch.linalg.vector_norm(rows, ord=q, dim=1).view(block.out_shape)
    assert torch.allclose(row_norms(block, q), expected, atol=1e-12)
    assert torch.allclose(generic_norms(block, q), expected, atol=1e-12)


def test_border_units_have_shorter_rows() -> None:
    """Seeded fault `truncated padding`: with the full filter norm everywhere this fails."""
    layer = Conv2d((1, 4, 4), 1, 3, 1, 1).double()
    layer.weight.data.fill_(1.0)
    expected = torch.tensor([4.0, 6, 6, 4, 6, 9, 9, 6, 6, 9, 9, 6, 4, 6, 6, 4], dtype=torch.float64).view(1, 4, 4)
    assert torch.equal(row_norms(Block([layer]), 1), expected)
    assert torch.allclose(row_norms(Block([layer]), 2), expected.sqrt())


@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_zero_filters_have_norm_and_gradient_zero(q: float) -> None:
    layer = Conv2d((1, 4, 4), 2, 3, 1, 1).double()
    layer.weight.data[0] = 0
    norms = row_norms(Block([layer]), q)
    norms.sum().backward()
    assert (norms[0] == 0).all()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("q", [1.0, 2.0, math.inf])
def test_whole_filters_are_what_the_middle_has(q: float) -> None:
    layer = Conv2d((2, 8, 8), 3, 3, 1, 1).double()
    cut, whole = row_norms(Block([layer]), q), row_norms(Block([layer]), q, full_filter=True)
    assert torch.allclose(whole, cut[:, 3:4, 3:4].expand_as(cut))
    assert (cut <= whole + 1e-12).all()
    assert q == math.inf or (cut[:, 0] < whole[:, 0]).all()
