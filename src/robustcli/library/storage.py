"""Networks as files: the checkpoints of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from robustcli.errors import UsageError
from robustcli.library.conversion import convert
from robustcli.networks import checkpoints, shipped
from robustcli.networks.metadata import Metadata
from robustcli.networks.network import Network


def load(path: str | Path) -> Network:
    """The network of a checkpoint: an `nn.Module` that takes [N, *input_shape] and gives logits [N, K].

    Args:
        path: a file written by `save` or `robust train`, or the name of a network that comes with this program.
    Raises:
        CheckpointError: missing, damaged, altered, or not a checkpoint.
    """
    return checkpoints.load(shipped.find(str(path)) or Path(path)).network


def save(path: str | Path, model: nn.Module, shape: Sequence[int] | None = None, *, dataset: str | None = None) -> Path:
    """Write a model as a checkpoint that every command takes: `robust certify --checkpoint PATH --dataset mnist`.

    Args:
        path: usually NAME.safetensors; replaced in one step.
        model: an `nn.Sequential` (see `convert`), or a `Network`.
        shape: of one input; a `Network` knows its own.
        dataset: name of the data set it was trained on, which the commands then take.
    Raises:
        UsageError: for a model that cannot be read, for a file that cannot be written.
        CheckpointError: when a weight is not finite.
    """
    if shape is None and not isinstance(model, Network):
        raise UsageError("save needs the shape of one input", "save(path, model, shape=(1, 28, 28))")
    network = convert(model, model.input_shape if isinstance(model, Network) else shape or ())
    checkpoints.save(Path(path), network, Metadata(dataset=dataset))
    return Path(path)
