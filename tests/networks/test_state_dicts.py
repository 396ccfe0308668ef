"""State dicts in the layouts of the released files, written here with torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustcli.errors import CheckpointError, UsageError
from robustcli.networks.state_dicts import Target, read_state_dict

DIGITS = Target("digits", (1, 8, 8), 10)


def small(channels: int = 1, flat: int = 128) -> nn.Sequential:
    """KW's small net; 128 features after the convolutions for 8x8 inputs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(flat, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def stored(tmp_path: Path, content: Any, name: str = "net.pth", **options: Any) -> Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("architecture", [None, "cnn"])
def test_a_sequential_in_the_layout_of_kw(tmp_path: Path, architecture: str | None, zipped: bool) -> None:
    model = small()
    path = stored(tmp_path, model.state_dict(), _use_new_zipfile_serialization=zipped)
    network, notes = read_state_dict(path, Target(), architecture=architecture)
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(network(x), model(x))
    assert network.name == "cnn"
    assert notes == []


def test_wrapped_parallel_and_reordered(tmp_path: Path) -> None:
    model = small()
    names = [*reversed(model.state_dict().items())]
    path = stored(tmp_path, {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in names}})
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(read_state_dict(path, DIGITS)[0](x), model(x))


def test_a_cascade_gives_the_stage_asked_for(tmp_path: Path) -> None:
    first, second = small(), small()
    second[0].bias.data += 1
    path = stored(tmp_path, {"state_dict": [first.state_dict(), second.state_dict()], "err": 0.1})
    x = torch.rand(3, 1, 8, 8)
    network, notes = read_state_dict(path, DIGITS)
    torch.testing.assert_close(network(x), first(x))
    assert notes == ["a cascade of 2 networks; stage 0 is taken, the others are left out"]
    torch.testing.assert_close(read_state_dict(path, DIGITS, stage=1)[0](x), second(x))
    with pytest.raises(UsageError, match="there is no stage 2"):
        read_state_dict(path, DIGITS, stage=2)
    with pytest.raises(UsageError, match="one network"):
        read_state_dict(stored(tmp_path, first.state_dict()), DIGITS, stage=1)


def colt(channels: int, side: int) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """COLT's ConvMed (widths 1, 1, 20 units) and its state dict as their code writes it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip
    kinds = {0: "conv", 2: "conv", 5: "linear", 7: "linear"}
    state = {
        f"blocks.layers.{index + 1}.{kind}.{part}": getattr(model[index], part)
        for index, kind in kinds.items()
        for part in ("weight", "bias")
    }
    return model, state | {"blocks.layers.2.deepz_lambda": torch.ones(16, side // 2, side // 2)}


def test_colt_normalises_with_mnist_constants(tmp_path: Path) -> None:
    model, state = colt(1, 28)
    network, notes = read_state_dict(stored(tmp_path, state), Target())
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(network(x), model((x - 0.1307) / 0.3081))
    assert network.name == "convmed-1-1-20"
    assert "0.1307" in notes[0]


def test_colt_normalises_cifar_with_its_own(tmp_path: Path) -> None:
    model, state = colt(3, 32)
    path = stored(tmp_path, state)
    network, _ = read_state_dict(path, Target("cifar10", (3, 32, 32), 10))
    x = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    torch.testing.assert_close(network(x), model((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)))
    svhn, _ = read_state_dict(path, Target("svhn", (3, 32, 32), 10))
    torch.testing.assert_close(svhn(x), model((x - 0.1307) / 0.3081))
    with pytest.raises(UsageError, match="depends on the data set"):
        read_state_dict(path, Target())


def test_normalisation_asked_for_comes_first(tmp_path: Path) -> None:
    model = small(3, 2048)
    network, _ = read_state_dict(stored(tmp_path, model.state_dict()), Target(), normalise=([0.5] * 3, [0.25] * 3))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(x), model((x - 0.5) / 0.25))


def test_fully_connected_nets_and_plain_safetensors(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(561, 500), nn.ReLU(), nn.Linear(500, 6))
    save_file(model.state_dict(), tmp_path / "har.safetensors")
    network, _ = read_state_dict(tmp_path / "har.safetensors", Target())
    x = torch.randn(3, 561)
    torch.testing.assert_close(network(x), model(x))
    assert network.name == "har"


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"a": 1}, CheckpointError, "does not hold a state dict"),
        ([1, 2], CheckpointError, "does not hold a state dict"),
        (torch.ones(2), CheckpointError, "does not hold a state dict"),
        ({"scale": torch.ones(2)}, CheckpointError, "scale"),
        ({"1.weight": torch.ones(2), "1.running_mean": torch.ones(2)}, CheckpointError, "running_mean"),
        ({"1.weight": torch.ones(2)}, CheckpointError, "1 dimensions"),
        ({"1.weight": torch.ones(3, 3), "2.weight": torch.ones(2, 4)}, UsageError, "no named architecture"),
    ],
)
def test_content_that_is_no_network(tmp_path: Path, content: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_state_dict(stored(tmp_path, content), Target())


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = stored(tmp_path, small().state_dict())
    with pytest.raises(CheckpointError, match=r"'convmed-2-2-100': weight 1 should be \[32, 1, 5, 5\]"):
        read_state_dict(path, DIGITS, architecture="convmed-2-2-100")
    with pytest.raises(CheckpointError, match="2 layers with weights, the file 4"):
        read_state_dict(path, DIGITS, architecture="fc1")
    with pytest.raises(CheckpointError, match="weight 3 should be"):
        read_state_dict(path, Target("mnist", (1, 28, 28), 10), architecture="cnn")


def test_nan_weights(tmp_path: Path) -> None:
    model = small()
    model[0].bias.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        read_state_dict(stored(tmp_path, model.state_dict()), DIGITS)


class Runs:
    """Makes a folder when unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_want_to_run_code_are_refused(tmp_path: Path, zipped: bool) -> None:
    content = {"0.weight": torch.ones(2, 2), "extra": Runs(str(tmp_path / "ran"))}
    path = stored(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: it wants to load posix\.mkdir"):
        read_state_dict(path, Target())
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_state_dict(stored(tmp_path, small()), DIGITS)
    assert "state_dict()" in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_files(tmp_path: Path, keep: float, zipped: bool) -> None:
    path = stored(tmp_path, small().state_dict(), _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError):
        read_state_dict(path, DIGITS)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        read_state_dict(tmp_path / "none.pth", DIGITS)
    with pytest.raises(CheckpointError, match="folder"):
        read_state_dict(tmp_path, DIGITS)
