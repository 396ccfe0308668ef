"""Networks on disk: one safetensors file with weights and metadata, written in one step, checked when read.

Weights are stored in the precision they have (float32 stays float32). Reading never executes anything and refuses what
does not fit: another architecture, missing or extra tensors, numbers that are not finite, altered weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustcli.errors import CheckpointError
from robustcli.files import write_bytes
from robustcli.networks.metadata import FORMAT, KEY, Header, Metadata, metadata_of, read_header, read_metadata
from robustcli.networks.network import Network

__all__ = ["FORMAT", "Checkpoint", "Metadata", "load", "read_metadata", "save"]


@dataclass(frozen=True)
class Checkpoint:
    """A network read from disk, in evaluation mode, with what is known of it."""

    network: Network
    metadata: Metadata
    path: Path


def save(path: Path, network: Network, metadata: Metadata) -> Metadata:
    """Write weights and metadata, replacing the file in one step.

    Args:
        path: usually `weights.safetensors` in a run folder.
        network: any device; its architecture and weights hash go into the metadata.
        metadata: everything else that is known; `versions` and `created` are filled when empty.
    Returns:
        the metadata as written.
    Raises:
        CheckpointError: when a weight is not finite.
        UsageError: when the file cannot be written.
    """
    from robustcli.results.provenance import now, versions

    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    _check_finite(tensors, "the network")
    metadata = metadata.model_copy(
        update={
            "architecture": network.describe(),
            "weights_sha256": network.weights_hash(),
            "versions": metadata.versions or versions(),
            "created": metadata.created or now(),
        }
    )
    write_bytes(path, save_tensors(tensors, {KEY: metadata.model_dump_json()}))
    return metadata


def load(path: Path, expected: str | None = None) -> Checkpoint:
    """Read a checkpoint written by `save`.

    Args:
        path: the file.
        expected: name of the architecture it must have (None: any).
    Returns:
        the network on the CPU, in evaluation mode, in the stored precision.
    Raises:
        CheckpointError: missing, truncated, altered, of another format or architecture, or with NaN weights.
    """
    path = Path(path)
    header = read_header(path)
    metadata = metadata_of(header, path)
    network = _skeleton(path, metadata, header)
    if expected is not None and network.name != expected:
        raise CheckpointError(
            f"{path} holds the architecture {network.name!r}, not {expected!r}",
            "give the checkpoint of the recipe's own run, or another --recipe",
        )
    try:
        tensors = load_tensors(path.read_bytes())
    except Exception as error:  # safetensors raises its own type and several of Python's
        raise CheckpointError(f"{path} is damaged: {error}", "train or fetch it again") from error
    _check_finite(tensors, str(path))
    network.load_state_dict(tensors, assign=True)
    network.eval()
    if network.weights_hash() != metadata.weights_sha256:
        raise CheckpointError(
            f"{path}: the weights are not those its metadata was written for",
            "the file was altered; train or fetch it again",
        )
    return Checkpoint(network, metadata, path)


def _skeleton(path: Path, metadata: Metadata, header: Header) -> Network:
    """The network the metadata describes, without storage, once its tensors match the header's in name and shape."""
    network = without_storage(metadata.architecture, str(path))
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    missing, extra = sorted(set(wanted) - set(header.shapes)), sorted(set(header.shapes) - set(wanted))
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has unknown {', '.join(extra)}"] if extra else []
        raise CheckpointError(f"{path} {' and '.join(parts)}: its tensors do not fit its architecture")
    for name, shape in wanted.items():
        if header.shapes[name] != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(header.shapes[name])}, its architecture wants {list(shape)}"
            )
    kinds = set(header.types.values())
    if len(kinds) != 1 or not kinds <= {"F32", "F64"}:
        raise CheckpointError(f"{path}: weights must all be float32 or all float64, found {', '.join(sorted(kinds))}")
    return network


def without_storage(description: dict[str, Any], where: str) -> Network:
    """The described network on torch's meta device: shapes and names, no memory, no random numbers drawn.

    Raises:
        CheckpointError: when the description does not hold together; `where` names its file.
    """
    try:
        with torch.device("meta"):
            return Network.from_description(description)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        text = json.dumps(description.get("name", "?") if isinstance(description, dict) else "?")
        raise CheckpointError(f"{where}: its architecture {text} does not hold together: {error}") from error


def _check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, value in tensors.items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise CheckpointError(
                f"{where}: {bad} of {value.numel()} numbers in {name} are NaN or infinite",
                "the training diverged: lower the learning rate or the weight of the regulariser",
            )
