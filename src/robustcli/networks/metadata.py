"""What a checkpoint says about itself, readable without torch and without touching the weights.

A checkpoint is one safetensors file: 8 bytes (length n of the header, little endian), n bytes of JSON, then the
arrays. The header's `__metadata__` holds, under `robustcli`, the JSON of `Metadata`. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustcli.errors import CheckpointError

FORMAT: Literal["robustcli.checkpoint/1"] = "robustcli.checkpoint/1"
KEY = "robustcli"
LONGEST_HEADER = 100_000_000  # the limit of the safetensors format


class Metadata(BaseModel):
    """Where a network comes from. `checkpoints.save` fills architecture, versions, created and weights_sha256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["robustcli.checkpoint/1"] = FORMAT
    architecture: dict[str, Any] = Field(default={}, description="`Network.describe()`: name, input shape, layers")
    recipe: str | None = Field(default=None, description="name of the recipe that trained it")
    recipe_hash: str | None = Field(default=None, description="`Recipe.hash` of the resolved recipe")
    dataset: str | None = None
    data_hash: str | None = Field(default=None, description="sha256 of the training split's arrays")
    norm: str | None = Field(default=None, description="l1, l2 or linf: what an imported network was trained against")
    eps: float | None = Field(default=None, description="and the radius")
    seed: int | None = None
    epoch: int | None = Field(default=None, description="epochs done")
    epochs: int | None = Field(default=None, description="epochs the recipe asks for")
    versions: dict[str, str] = {}
    figures: dict[str, float | None] = Field(default={}, description="measured or published figures, as fractions")
    source: str | None = Field(default=None, description="origin of an imported network")
    licence: str | None = None
    created: str = Field(default="", description="UTC, ISO 8601")
    weights_sha256: str = Field(default="", description="`Network.weights_hash()`")


@dataclass(frozen=True)
class Header:
    """The safetensors header: shape and type name of every tensor, and the free metadata."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    metadata: Mapping[str, str]


def read_metadata(path: Path) -> Metadata:
    """The metadata of a checkpoint.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint of this program, or of a newer format.
    """
    return metadata_of(read_header(path), path)


def metadata_of(header: Header, path: Path) -> Metadata:
    """The metadata held by an already read header; `path` is for messages.

    Raises:
        CheckpointError: when it is not this program's, or of a newer format.
    """
    text = header.metadata.get(KEY)
    if text is None:
        raise CheckpointError(
            f"{path} holds tensors but not robustcli's metadata",
            "import it from the authors' file: robust model import PATH --architecture NAME",
        )
    try:
        content = json.loads(text)
        version = content["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has the format {version!r}; this version reads {FORMAT!r}", "upgrade robustcli, or train again"
        )
    try:
        return Metadata.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: metadata key {where!r}: {first['msg']}") from error


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size.

    Raises:
        CheckpointError: missing, truncated, or another kind of file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            readable = len(start) == 8 and 2 <= length <= LONGEST_HEADER
            text = file.read(length) if readable else b""
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", "train one: robust train --recipe NAME") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty", "train or fetch it again")
    if not text.startswith(b"{"):
        _refuse_pickle(path, start)
        raise CheckpointError(f"{path} is not a safetensors checkpoint")
    if len(text) < length:
        raise CheckpointError(f"{path} is truncated: its header ends early", "train or fetch it again")
    return _parse(path, text, size - 8 - length)


def _refuse_pickle(path: Path, start: bytes) -> None:
    """Say so where a file that is no checkpoint begins like a zip or a pickle (a header length may begin alike)."""
    if start.startswith((b"PK", b"\x80")):
        raise CheckpointError(
            f"{path} is a PyTorch or NumPy file; such files are never opened as checkpoints",
            f"import its weights first: robust model import {path}",
        )


def _parse(path: Path, text: bytes, body: int) -> Header:
    """The header's JSON, and that the arrays it announces fill the `body` bytes that follow exactly."""
    try:
        content = json.loads(text)
        metadata = content.pop("__metadata__", {})
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in content.items()}
        types = {name: str(entry["dtype"]) for name, entry in content.items()}
        end = max((int(entry["data_offsets"][1]) for entry in content.values()), default=0)
        text_only = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors checkpoint: its header cannot be read") from error
    if body < end:
        raise CheckpointError(
            f"{path} is truncated: {body} of {end} bytes of weights are there", "train or fetch it again"
        )
    if body > end:
        raise CheckpointError(f"{path} is damaged: {body - end} bytes too many", "train or fetch it again")
    return Header(shapes, types, text_only)
