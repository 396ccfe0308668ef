"""Own models as networks: the same function, or a refusal that names the layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustcli as robust
from robustcli.balls import Ball
from robustcli.bounds.crown import crown
from robustcli.errors import UsageError
from robustcli.networks.network import margin_rows
from tests.library.models import as_torch, convolutional, doubled, perceptron
from tests.nets import STACKS


@pytest.mark.parametrize("name", STACKS)
def test_every_stack_of_layers_survives(name: str) -> None:
    network = STACKS[name]
    found = robust.convert(as_torch(network), network.input_shape)
    points = torch.rand(5, *network.input_shape, dtype=torch.float64)
    assert found.describe()["layers"] == network.describe()["layers"]
    torch.testing.assert_close(found(points), network(points), rtol=1e-12, atol=1e-12)


CONVERTED: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "batch normalisation behind a convolution": (convolutional, (3, 6, 6)),
    "batch normalisation of features": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(), nn.Linear(5, 3)).eval(),
        (4,),
    ),
    "batch normalisation first": (
        lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)).eval(),
        (2, 3, 3),
    ),
    "a vector seen as an image": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(32, 3)
        ),
        (16,),
    ),
    "an image flattened and seen as an image": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Unflatten(1, (2, 2, -1)), nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(6, 3)
        ),
        (1, 4, 4),
    ),
    "what does nothing": (
        lambda: nn.Sequential(
            nn.Identity(), nn.Flatten(), nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 2)
        ),
        (1, 2, 2),
    ),
    "a padding that pads nothing": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding="valid", padding_mode="reflect"), nn.Flatten(), nn.Linear(2, 2)
        ),
        (1, 3, 3),
    ),
}


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_is_the_model(name: str, dtype: torch.dtype) -> None:
    make, shape = CONVERTED[name]
    model = make().to(dtype)
    network = robust.convert(model, shape)
    points = torch.randn(6, *shape)
    found = network.double()(points.double().view(-1, *network.input_shape))
    torch.testing.assert_close(found, doubled(model, points), rtol=1e-12, atol=1e-12)
    assert network.dtype == dtype


def test_averages_must_be_square() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d((2, None)), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(UsageError, match=r"0: AdaptiveAvgPool2d: values of shape \[1, 4, 3\] do not divide"):
        robust.convert(model, (1, 4, 3))
    model[0].output_size = (2, 3)
    network, points = robust.convert(model, (1, 4, 6)), torch.rand(3, 1, 4, 6)
    torch.testing.assert_close(network(points), model(points))


def test_a_layer_that_stands_twice_counts_twice() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    points = torch.rand(4, 3)
    torch.testing.assert_close(robust.convert(model, (3,))(points), model(points))


def test_bounds_know_batch_normalisation() -> None:
    """Margins proved over balls hold for the model itself at points inside."""
    model, points = convolutional(), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    network = robust.convert(model, (3, 6, 6)).double()
    labels = network(points).argmax(1)
    rows, _ = margin_rows(labels, 4, torch.float64)
    ball = Ball.around(points, 0.05, torch.inf, (0.0, 1.0))
    proved = crown(network, ball, rows).margins
    samples = ball.sample(200, torch.Generator().manual_seed(0))
    logits = torch.stack([doubled(model, some) for some in samples])
    assert bool((torch.einsum("btk,bnk->bnt", rows, logits) >= proved.unsqueeze(1)).all())


def test_the_network_is_a_copy() -> None:
    model = perceptron(2, 4, 3)
    network, points = robust.convert(model, (2,)), torch.rand(5, 2)
    before = network(points)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert bool((network(points) == before).all())
    assert not network.training


def test_random_numbers_stay_where_they_are() -> None:
    model = perceptron(2, 4, 3)
    torch.manual_seed(5)
    robust.convert(model, (2,))
    found = torch.rand(3)
    torch.manual_seed(5)
    assert bool((torch.rand(3) == found).all())


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _with_nan() -> nn.Sequential:
    model = perceptron(2, 3, 2)
    model[2].weight.data[0, 0] = torch.nan
    return model


def _mixed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2).double())


IMAGE, HEAD = (1, 4, 4), [nn.Flatten(), nn.Linear(16, 2)]
REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "MaxPool2d is not in the layer set": (
        nn.Sequential(nn.Sequential(nn.Identity(), nn.MaxPool2d(2)), nn.Flatten()),
        IMAGE,
        "0.1: ",
    ),
    "LeakyReLU is not in the layer set": (nn.Sequential(*HEAD, nn.LeakyReLU()), IMAGE, "2: "),
    "Twice is not in the layer set": (nn.Sequential(nn.Flatten(), Twice(16, 2)), IMAGE, "1: "),
    "Residual is not in the layer set": (nn.Sequential(nn.Linear(2, 2), Residual(nn.ReLU())), (2,), "1: "),
    "leave it out": (nn.Sequential(*HEAD, nn.Softmax(1)), IMAGE, "2: Softmax"),
    "is not an nn.Sequential": (nn.Linear(2, 2), (2,), "Linear"),
    "Residual is not an nn.Sequential": (Residual(nn.Linear(2, 2)), (2,), ""),
    "call model.eval() first": (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), *HEAD[1:]), IMAGE, "1: BatchNorm1d"),
    "is in training mode": (nn.Sequential(nn.Dropout(), *HEAD), IMAGE, "0: Dropout"),
    "without running statistics": (
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *HEAD).eval(),
        IMAGE,
        "0: BatchNorm2d",
    ),
    "2 channels meet values of shape [1, 4, 4]": (nn.Sequential(nn.BatchNorm2d(2), *HEAD).eval(), IMAGE, "0: "),
    "dilated and grouped": (nn.Sequential(nn.Conv2d(1, 1, 2, dilation=2)), IMAGE, "0: Conv2d"),
    "dilated and grouped convolutions": (nn.Sequential(nn.Conv2d(2, 2, 2, groups=2)), (2, 4, 4), "0: Conv2d"),
    "padding mode 'circular'": (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), IMAGE, "0: "),
    "kernel [3, 2] differs between rows and columns": (nn.Sequential(nn.Conv2d(1, 1, (3, 2))), IMAGE, "0: "),
    "padding 'same' of an even kernel": (nn.Sequential(nn.Conv2d(1, 1, 2, padding="same")), IMAGE, "0: "),
    "does not fit": (nn.Sequential(nn.Conv2d(1, 1, 5)), IMAGE, "0: Conv2d: a 5x5 kernel"),
    "a convolution of 3 channels": (nn.Sequential(nn.Conv2d(3, 1, 2)), IMAGE, "0: "),
    "flatten them first": (nn.Sequential(nn.Linear(4, 2)), IMAGE, "0: Linear"),
    "a linear layer for 9 inputs meets": (nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), IMAGE, "1: Linear"),
    "padding, ceil_mode": (nn.Sequential(nn.AvgPool2d(2, padding=1), *HEAD), IMAGE, "0: AvgPool2d"),
    "not channels, rows, columns": (nn.Sequential(*HEAD, nn.AvgPool2d(2)), IMAGE, "2: AvgPool2d"),
    "stands before every other layer": (nn.Sequential(nn.ReLU(), *HEAD), IMAGE, "0: ReLU"),
    "all but the batch must be flattened": (nn.Sequential(nn.Flatten(2), nn.Linear(16, 2)), IMAGE, "0: Flatten"),
    "in front of all other layers": (nn.Sequential(*HEAD, nn.Unflatten(1, (1, 2))), IMAGE, "2: Unflatten"),
    "the last layer must be affine": (nn.Sequential(*HEAD, nn.ReLU()), IMAGE, ""),
    "at least two logits": (nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), IMAGE, ""),
    "weight holds NaN": (_with_nan(), (2,), "2: Linear"),
    "torch.float16": (nn.Sequential(nn.Linear(2, 2)).half(), (2,), "0.weight"),
    "of one precision": (_mixed(), (2,), ""),
    "found: none": (nn.Sequential(nn.Flatten()), IMAGE, ""),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_is_named(words: str) -> None:
    model, shape, where = REFUSED[words]
    with pytest.raises(UsageError) as caught:
        robust.convert(model, shape)
    assert words in str(caught.value)
    assert str(caught.value).startswith(where)


def test_a_hook_that_changes_the_function_is_noticed() -> None:
    model = perceptron(2, 4, 3)
    model[0].register_forward_hook(lambda module, given, found: found + 1)
    with pytest.raises(UsageError, match="does not give the logits of the model"):
        robust.convert(model, (2,))


def test_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, points = convolutional(), torch.rand(2, 3, 6, 6)
    path = robust.save(tmp_path / "mine.safetensors", model, shape=(3, 6, 6))
    network = robust.load(path)
    torch.testing.assert_close(network(points), model(points))
    assert robust.convert(network, (3, 6, 6)) is network
    robust.save(tmp_path / "again.safetensors", network)
    with pytest.raises(UsageError, match=r"inputs of shape \[3, 6, 6\], not \[1, 6, 6\]"):
        robust.convert(network, (1, 6, 6))
    with pytest.raises(UsageError, match="needs the shape"):
        robust.save(path, model)
