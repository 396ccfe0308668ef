"""Every layer against its dense matrix: W from basis vectors, then forward, adjoint and magnitude follow from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcli.networks.layers import Affine, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Normalise, build_layer


def batch_norm() -> BatchNorm:
    layer = BatchNorm((3, 4, 4))
    layer.running_mean = torch.tensor([0.5, -1.0, 2.0])
    layer.running_var = torch.tensor([0.1, 2.0, 0.7])
    layer.weight.data = torch.tensor([1.5, -0.5, 0.0])
    layer.bias.data = torch.tensor([0.2, 0.0, -1.0])
    return layer


LAYERS = {
    "linear": lambda: Linear(7, 4),
    "k5 s2 p2 on 28 rows": lambda: Conv2d((1, 28, 28), 2, 5, 2, 2),
    "k4 s2 p0 on 9 rows": lambda: Conv2d((2, 9, 9), 3, 4, 2, 0),
    "k4 s2 p1": lambda: Conv2d((2, 8, 8), 3, 4, 2, 1),
    "k4 s4 p0 on 6x10": lambda: Conv2d((2, 6, 10), 3, 4, 4, 0),
    "k3 s1 p1": lambda: Conv2d((2, 5, 6), 3, 3, 1, 1),
    "normalise": lambda: Normalise((3, 4, 4), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]),
    "normalise features": lambda: Normalise((3,), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]),
    "batchnorm": batch_norm,
    "avgpool 2": lambda: AvgPool2d((2, 6, 6), 2),
    "avgpool 3 stride 2 on 8x7": lambda: AvgPool2d((2, 8, 7), 3, 2),
    "flatten": lambda: Flatten((2, 3, 4)),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Affine:
    torch.manual_seed(0)
    return LAYERS[request.param]().double().eval().requires_grad_(False)


def matrix(layer: Affine) -> Tensor:
    """W, [outputs, inputs], column by column."""
    size = math.prod(layer.in_shape)
    basis = torch.eye(size, dtype=torch.float64).view(size, *layer.in_shape)
    return layer.linear(basis).flatten(1).T


def normal(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_shapes_are_as_declared(layer: Affine) -> None:
    assert layer(normal(layer.in_shape)).shape[1:] == layer.out_shape
    assert layer.adjoint(normal(layer.out_shape)).shape[1:] == layer.in_shape


def test_forward_is_the_matrix_plus_an_offset(layer: Affine) -> None:
    x = normal(layer.in_shape)
    offset = layer(torch.zeros(1, *layer.in_shape, dtype=torch.float64))
    torch.testing.assert_close(layer(x), layer.linear(x) + offset, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.linear(x).flatten(1), x.flatten(1) @ matrix(layer).T, rtol=0, atol=1e-12)


def test_adjoint_is_the_transpose(layer: Affine) -> None:
    x, y = normal(layer.in_shape), normal(layer.out_shape)
    left = (layer.linear(x).flatten(1) * y.flatten(1)).sum(1)
    right = (x.flatten(1) * layer.adjoint(y).flatten(1)).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.adjoint(y).flatten(1), y.flatten(1) @ matrix(layer), rtol=0, atol=1e-12)


def test_magnitude_is_the_absolute_matrix(layer: Affine) -> None:
    x = normal(layer.in_shape).abs()
    torch.testing.assert_close(layer.magnitude(x).flatten(1), x.flatten(1) @ matrix(layer).abs().T, rtol=0, atol=1e-12)


def test_the_fan_in_counts_the_entries_of_a_row(layer: Affine) -> None:
    assert layer.fan_in == int((matrix(layer) != 0).sum(1).max())


def test_description_gives_the_layer_back(layer: Affine) -> None:
    again = build_layer(layer.describe(), layer.in_shape)
    assert isinstance(again, Affine)
    again.double().load_state_dict(layer.state_dict())
    x = normal(layer.in_shape)
    torch.testing.assert_close(again.eval()(x), layer(x), rtol=0, atol=0)
    assert again.describe() == layer.describe()


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
)
def test_adjoint_of_any_convolution(sides: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
    layer = Conv2d((2, *sides), 3, kernel, stride, padding).double()
    x, y = normal(layer.in_shape, 2), normal(layer.out_shape, 2)
    torch.testing.assert_close((layer.linear(x) * y).sum(), (x * layer.adjoint(y)).sum(), rtol=1e-10, atol=1e-10)


def test_batch_norm_at_evaluation_is_its_scale_and_shift() -> None:
    layer = batch_norm().double().eval()
    x = normal(layer.in_shape)
    scale, shift = layer.scale_shift()
    torch.testing.assert_close(layer(x), x * scale + shift, rtol=0, atol=1e-12)


def test_batch_norm_in_training_uses_the_batch() -> None:
    layer = BatchNorm((2,)).double()
    values = layer(normal((2,), 50) * 3 + 1)
    torch.testing.assert_close(values.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    assert not torch.equal(layer.running_mean, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("description", "shape", "words"),
    [
        ({"type": "maxpool2d", "kernel": 2}, (1, 4, 4), "not in the layer set"),
        ({"type": "linear", "in": 5, "out": 2}, (4,), "meets inputs of shape"),
        ({"type": "conv2d", "in": 3, "out": 2, "kernel": 3}, (1, 4, 4), "meets inputs of shape"),
        ({"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "groups": 2}, (1, 4, 4), "grouped"),
        ({"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "dilation": 2}, (1, 4, 4), "dilated"),
        ({"type": "conv2d", "in": 1, "out": 2, "kernel": 9}, (1, 4, 4), "does not fit"),
        ({"type": "normalise", "mean": [0.0], "std": [0.0]}, (1, 4, 4), "positive"),
    ],
)
def test_layers_that_cannot_be_are_refused(description: dict[str, object], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_layer(description, shape)
