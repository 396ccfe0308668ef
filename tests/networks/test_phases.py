"""A transposed convolution by phases equals the layer's adjoint, and so do its gradients."""

from __future__ import annotations

import pytest
import torch

from robustcli.networks.layers import Conv2d
from robustcli.networks.phases import FEW_CHANNELS, spread

# input shape, filters, kernel, stride, padding: strides that divide nothing, gaps between filters, unread borders
LAYERS = [
    ((3, 32, 32), 4, 4, 2, 1),
    ((2, 9, 9), 3, 5, 2, 2),
    ((1, 6, 8), 2, 3, 1, 1),
    ((1, 9, 9), 2, 2, 3, 0),
    ((1, 13, 10), 2, 5, 3, 2),
    ((2, 8, 7), 3, 4, 2, 0),
    ((2, 11, 8), 4, 1, 2, 0),
    ((2, 7, 7), 3, 3, 1, 2),
    ((2, 1, 1), 3, 1, 1, 0),
]


@pytest.mark.parametrize("channels", [None, FEW_CHANNELS])
@pytest.mark.parametrize(("shape", "filters", "kernel", "stride", "padding"), LAYERS)
def test_equals_the_adjoint(
    shape: tuple[int, int, int], filters: int, kernel: int, stride: int, padding: int, channels: int | None
) -> None:
    shape = (channels or shape[0], *shape[1:])
    layer = Conv2d(shape, filters, kernel, stride, padding).double()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, *layer.out_shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    mine, theirs = spread(rows, layer.weight, stride, padding, shape[1:]), layer.adjoint(rows)
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad((each * weights).sum(), (rows, layer.weight)) for each in (mine, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-11, rtol=0)
