"""Checkpoints come back as they were, and nothing else comes back at all."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustcli.errors import CheckpointError, UsageError
from robustcli.networks.architectures import build
from robustcli.networks.checkpoints import Metadata, load, save
from robustcli.networks.metadata import KEY, read_metadata
from robustcli.networks.network import Network


@pytest.fixture
def network() -> Network:
    return build("cnn", (1, 8, 8), 10, normalise=((0.3,), (0.4,)))


@pytest.fixture
def stored(network: Network, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "weights.safetensors"
    save(path, network, Metadata(recipe="digits-cnn", seed=3, epoch=2, epochs=5, figures={"test_error": 0.25}))
    return path


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, object]], None]) -> None:
    """Store the checkpoint again with changed tensors or metadata."""
    tensors, metadata = load_file(path), read_metadata(path).model_dump(mode="json")
    change(tensors, metadata)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {KEY: json.dumps(metadata)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_keeps_every_bit(network: Network, tmp_path: Path, dtype: torch.dtype) -> None:
    network = network.to(dtype)
    path = tmp_path / "w.safetensors"
    written = save(path, network, Metadata(seed=1))
    checkpoint = load(path)
    assert checkpoint.metadata == written == read_metadata(path)
    assert checkpoint.network.dtype == dtype
    assert not checkpoint.network.training
    for name, value in network.state_dict().items():
        assert torch.equal(checkpoint.network.state_dict()[name], value)
    assert checkpoint.network.weights_hash() == network.weights_hash() == written.weights_sha256


def test_a_loaded_network_can_be_trained_further(stored: Path) -> None:
    network = load(stored).network
    network(torch.rand(2, 1, 8, 8)).sum().backward()
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    optimiser.step()
    assert network.weights_hash() != read_metadata(stored).weights_sha256


def test_batch_norm_statistics_are_kept(tmp_path: Path) -> None:
    linear = {"type": "linear", "in": 3, "out": 3}
    layers = [linear, {"type": "batchnorm"}, {"type": "relu"}, linear]
    network = Network.from_description({"input_shape": [3], "layers": layers})
    network.train()(torch.randn(8, 3))
    save(tmp_path / "w.safetensors", network, Metadata())
    x = torch.randn(4, 3)
    torch.testing.assert_close(load(tmp_path / "w.safetensors").network(x), network.eval()(x))


def test_loading_draws_no_random_numbers(stored: Path) -> None:
    torch.manual_seed(0)
    load(stored)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_metadata_is_filled_and_readable_without_torch(stored: Path) -> None:
    metadata = read_metadata(stored)
    assert metadata.architecture["name"] == "cnn"
    assert metadata.versions["torch"] == torch.__version__
    assert metadata.created
    code = (
        "import sys, pathlib; from robustcli.networks.metadata import read_metadata; "
        "print(read_metadata(pathlib.Path(sys.argv[1])).recipe); assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code, str(stored)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "digits-cnn"


def test_no_half_written_file_is_left(network: Network, tmp_path: Path) -> None:
    next(network.parameters()).data[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        save(tmp_path / "w.safetensors", network, Metadata())
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written(network: Network, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        save(tmp_path / "file" / "w.safetensors", network, Metadata())


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused(stored: Path, share: float) -> None:
    content = stored.read_bytes()
    stored.write_bytes(content[: int(share * len(content))])
    for reader in (load, read_metadata):
        with pytest.raises(CheckpointError, match=r"truncated|empty|not a safetensors"):
            reader(stored)


def test_extra_bytes_are_refused(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes() + b"0000")
    with pytest.raises(CheckpointError, match="4 bytes too many"):
        load(stored)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load(tmp_path / "nothing.safetensors")


class Runs:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name, write in {
        "old.pt": lambda file: file.write_bytes(pickle.dumps(Runs(marker))),
        "new.pt": lambda file: torch.save({"a": Runs(marker)}, file),
    }.items():
        write(tmp_path / name)
        with pytest.raises(CheckpointError, match="never opened as checkpoints") as caught:
            load(tmp_path / name)
        assert "robust model import" in str(caught.value)
    assert not marker.exists()


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="not robustcli's metadata"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("start", [b"\x80\x05", b"PK"])
def test_a_header_may_begin_like_a_pickle_or_a_zip(network: Network, tmp_path: Path, start: bytes) -> None:
    """The first bytes are the header's length, which is any number."""
    path = tmp_path / "w.safetensors"
    written = save(path, network, Metadata(source="x"))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    wanted = int.from_bytes(start, "little")
    header = content[8 : 8 + length].rstrip(b" ")
    wanted += 65536 * (len(header) > wanted)
    path.write_bytes(wanted.to_bytes(8, "little") + header.ljust(wanted) + content[8 + length :])
    assert path.read_bytes().startswith(start)
    assert load(path).metadata == written


@pytest.mark.parametrize(
    "header",
    [b"{", b"{}", b'{"__metadata__": []}', b'{"a": 1}', b'{"a": {}}', b'{"a": ' + b"[" * 100_000, b'{"\xff": 1}'],
)
def test_headers_that_make_no_sense(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    for reader in (load, read_metadata):
        with pytest.raises(CheckpointError):
            reader(path)


def test_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("just some text, long enough for a header length")
    with pytest.raises(CheckpointError, match="not a safetensors checkpoint"):
        load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, m: m.update(format="robustcli.checkpoint/2"), "checkpoint/2"),
        (lambda t, m: m.update(surprise=1), "surprise"),
        (lambda t, m: m.pop("format"), "metadata cannot be read"),
        (lambda t, m: m.update(seed="three"), "seed"),
        (lambda t, m: t.pop("layers.1.weight"), r"lacks layers\.1\.weight"),
        (lambda t, m: t.update(more=torch.ones(1)), "unknown more"),
        (lambda t, m: t.update({"layers.8.bias": torch.ones(11)}), r"layers\.8\.bias has shape \[11\]"),
        (lambda t, m: t["layers.8.bias"].fill_(torch.nan), r"10 of 10 numbers in layers\.8\.bias are NaN"),
        (lambda t, m: t["layers.8.bias"].fill_(-torch.inf), "infinite"),
        (lambda t, m: t["layers.8.bias"].add_(1e-3), "not those its metadata was written for"),
        (lambda t, m: t.update({"layers.8.bias": t["layers.8.bias"].double()}), "all be float32 or all float64"),
        (lambda t, m: t.update({"layers.8.bias": t["layers.8.bias"].half()}), "all be float32 or all float64"),
        (lambda t, m: m["architecture"]["layers"][1].update(out=10**9), "does not hold together"),
        (lambda t, m: m["architecture"]["layers"][1].update(type="exec"), "not in the layer set"),
        (lambda t, m: m.update(architecture={}), "does not hold together"),
        (lambda t, m: m["architecture"]["layers"][1].update(padding=0), "does not hold together"),
    ],
)
def test_what_does_not_fit_is_refused(stored: Path, change: Callable[..., object], words: str) -> None:
    rewrite(stored, lambda tensors, metadata: (change(tensors, metadata), None)[1])
    with pytest.raises(CheckpointError, match=words):
        load(stored)


def test_another_architecture_is_refused(stored: Path) -> None:
    assert load(stored, expected="cnn").network.name == "cnn"
    with pytest.raises(CheckpointError, match="holds the architecture 'cnn', not 'fc1'"):
        load(stored, expected="fc1")
