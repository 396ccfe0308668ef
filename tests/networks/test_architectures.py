"""The catalogue against the papers' own counts, and against networks written down with torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustcli.errors import UnknownNameError, UsageError
from robustcli.networks import architectures
from robustcli.networks.architectures import build, description, hidden_units, recognise
from robustcli.networks.checkpoints import without_storage

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


@pytest.mark.parametrize(
    ("name", "shape", "units"),
    [("fc1", MNIST, 1024), ("fc10", MNIST, 1024), ("cnn", MNIST, 4804), ("cnn", CIFAR, 6244), ("2x100", MNIST, 200)],
)
def test_hidden_units_of_the_papers(name: str, shape: tuple[int, ...], units: int) -> None:
    assert hidden_units(name, shape) == units
    assert build(name, shape, 10).hidden_units == units


def test_the_families_are_complete() -> None:
    papers = [item.paper for item in architectures.NAMED.values()]
    assert papers.count("004 small") == 10
    assert papers.count("004 large") == 7
    plans = {item.plan for item in architectures.NAMED.values() if item.paper.startswith("004 ")}
    assert len(plans) == 17


@pytest.mark.parametrize("name", architectures.names())
def test_every_architecture_builds_and_is_recognised(name: str) -> None:
    shape = architectures.architecture(name).inputs or MNIST
    described = description(name, shape, 7)
    network = without_storage(described, name)
    assert network.name == name
    assert network.classes == 7
    assert network.hidden_units == hidden_units(name, shape)
    found = recognise(described["layers"], shape, 7)
    assert found is not None
    assert description(found, shape, 7)["layers"] == described["layers"]


def count(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return sum(weight.numel() for weight in model.parameters()), tuple(model(torch.zeros(1, *shape)).shape)


def test_convmed_and_the_three_layer_block_as_written_with_torch() -> None:
    convmed = nn.Sequential(
        nn.Conv2d(1, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * 7 * 7, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    assert build("convmed-2-2-100", MNIST, 10).parameter_count == count(convmed, MNIST)[0]
    block = nn.Sequential(
        nn.Conv2d(1, 8, 5, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 5, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 4, 4, 0),
        nn.ReLU(), nn.Flatten(), nn.Linear(16 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    assert build("ci-3layer-k5-w2-fc128", MNIST, 10).parameter_count == count(block, MNIST)[0]


def test_the_built_network_computes_what_torch_computes() -> None:
    network = build("cnn", DIGITS, 10)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    model.load_state_dict({name.removeprefix("layers."): value for name, value in network.state_dict().items()})
    x = torch.rand(3, *DIGITS)
    torch.testing.assert_close(network(x), model(x))


def test_patterns_give_families() -> None:
    assert [layer["out"] for layer in description("3x7", (5,), 2)["layers"] if layer["type"] == "linear"] == [
        7,
        7,
        7,
        2,
    ]
    assert description("convmed-1-1-50", MNIST, 10)["layers"][0]["out"] == 16
    assert description("convmedbig-1-2-3-50", CIFAR, 10)["layers"][4]["out"] == 96
    assert description("ci-4layer-w3-fc32", MNIST, 10)["layers"][0]["out"] == 12


def test_aliases_keep_one_name() -> None:
    assert description("small", MNIST, 10) == description("cnn", MNIST, 10)


def test_normalisation_is_the_first_layer() -> None:
    network = build("cnn", CIFAR, 10, normalise=((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    first = network.layers[0].describe()
    assert first["type"] == "normalise"
    assert first["std"] == pytest.approx([0.2, 0.2, 0.1])
    assert network.hidden_units == 6244


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("cnn", (561,), "convolutional"),
        ("svhn-colt", (1, 3, 3), "does not fit"),
        ("0x100", MNIST, "every size"),
        ("999x2", MNIST, "at most 100 layers"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(name, shape, 10)


def test_wrong_number_of_means() -> None:
    with pytest.raises(UsageError, match="3 channels"):
        build("cnn", CIFAR, 10, normalise=((0.5,), (0.2,)))


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'xlarge'"):
        build("xlarg", MNIST, 10)
