"""The gradient of a function of the logits is autograd's, on every layer of the set, in both precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.gradients import InputGradient
from robustcli.networks.layers import AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Normalise, ReLU
from robustcli.networks.network import Network


def network(dtype: torch.dtype) -> Network:
    """Every layer there is: convolutions with and without stride, with borders that no filter reaches."""
    torch.manual_seed(0)
    parts = Network(
        [
            Normalise((2, 13, 10), [0.4, 0.5], [0.2, 0.3]),
            Conv2d((2, 13, 10), 3, 4, 2, 1),
            BatchNorm((3, 6, 5)),
            ReLU(),
            Conv2d((3, 6, 5), 16, 3, 1, 1),
            ReLU(),
            AvgPool2d((16, 6, 5), 2),
            Conv2d((16, 3, 2), 9, 2, 2, 1),
            Flatten((9, 2, 2)),
            ReLU(),
            Linear(36, 7),
            ReLU(),
            Linear(7, 5),
        ],
        (2, 13, 10),
    )
    with torch.no_grad():
        for layer in parts.layers:
            if isinstance(layer, BatchNorm):
                layer.running_mean.uniform_(-0.3, 0.3)
                layer.running_var.uniform_(0.5, 2)
    return parts.to(dtype).eval()


@pytest.mark.parametrize("rows", [0, 1, 6, 17])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_is_autograds(dtype: torch.dtype, close: float, rows: int) -> None:
    model = network(dtype)
    points = torch.rand(rows, 2, 13, 10, dtype=dtype)
    labels = torch.arange(rows) % 5

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    mine = InputGradient(model)(points, loss)
    leaf = points.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(loss(logits).sum(), leaf)
    torch.testing.assert_close(mine.gradient, gradient, atol=close, rtol=0)
    torch.testing.assert_close(mine.logits, logits.detach(), atol=close, rtol=0)
    torch.testing.assert_close(mine.values, loss(logits).detach(), atol=close, rtol=0)
    if rows:
        assert gradient.abs().max() > 1e-3


def test_leaves_no_trace() -> None:
    model = network(torch.float32)
    points = torch.rand(3, 2, 13, 10, requires_grad=True)
    found = InputGradient(model)(points, lambda logits: logits.amax(1))
    assert points.grad is None
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(part.requires_grad for part in (found.logits, found.values, found.gradient))


def test_a_kink_has_slope_zero() -> None:
    model = Network([Linear(1, 1), ReLU(), Linear(1, 2)], (1,)).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float(weight.dim() == 2))  # ones, and biases of 0
    points = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    assert InputGradient(model)(points, lambda logits: logits[:, 0]).gradient.flatten().tolist() == [0, 0, 1]


def test_points_stay_as_they_are() -> None:
    """Also where the first layer only gives them another shape."""
    model = Network([Flatten((1, 2, 2)), ReLU(), Linear(4, 2)], (1, 2, 2)).eval()
    points = torch.linspace(-1, 1, 8).view(2, 1, 2, 2)
    InputGradient(model)(points, lambda logits: logits[:, 0])
    torch.testing.assert_close(points, torch.linspace(-1, 1, 8).view(2, 1, 2, 2), atol=0, rtol=0)
