"""Adversarial inputs on disk: one small npz file each, named by its content, readable with numpy alone.

witnesses/<20 hex>.npz   point, witness   float64 arrays of the input's shape
                         index, label     integers: row in the stored test order, true class
                         margin           float64 margin f_y - max f_t at the witness, < 0
                         norm, distance   the norm of the question and ||witness - point|| in it
                         model            hash of architecture and weights the witness is against
                         found_by         name of the attack; empty where it is not known
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustcli.errors import DataError
from robustcli.files import write_bytes


@dataclass(frozen=True)
class Witness:
    """A misclassified input near a test point, as numpy arrays."""

    point: np.ndarray
    witness: np.ndarray
    index: int
    label: int
    margin: float
    norm: str
    distance: float
    model: str
    found_by: str = ""

    @property
    def name(self) -> str:
        """File name: the same input against the same model is stored once."""
        digest = hashlib.sha256(f"{self.model} {self.index}".encode())
        digest.update(np.ascontiguousarray(self.witness, dtype=np.float64).tobytes())
        return digest.hexdigest()[:20] + ".npz"


_UNREADABLE = (EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)
"""What a damaged archive comes to, by the place of the damage."""

Place = Path | dict[str, Witness]
"""Where witnesses are kept: a folder, or memory, by name."""


def store(place: Place, witness: Witness) -> str:
    """Keep a witness, unless the same one is there already; its name.

    Raises:
        UsageError: when the folder cannot be written.
    """
    if isinstance(place, dict):
        return place.setdefault(witness.name, witness).name
    path = place / witness.name
    if not path.is_file():
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            point=np.asarray(witness.point, dtype=np.float64),
            witness=np.asarray(witness.witness, dtype=np.float64),
            index=np.int64(witness.index),
            label=np.int64(witness.label),
            margin=np.float64(witness.margin),
            norm=np.array(witness.norm),
            distance=np.float64(witness.distance),
            model=np.array(witness.model),
            found_by=np.array(witness.found_by),
        )
        write_bytes(path, buffer.getvalue())
    return path.name


def load(path: Path) -> Witness:
    """Read a witness.

    Raises:
        DataError: when the file is missing, damaged or not a witness.
    """
    try:
        # Through memory: numpy leaves the file open when the archive is damaged.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            found = Witness(
                point=data["point"],
                witness=data["witness"],
                index=int(data["index"]),
                label=int(data["label"]),
                margin=float(data["margin"]),
                norm=str(data["norm"]),
                distance=float(data["distance"]),
                model=str(data["model"]),
                found_by=str(data["found_by"]) if "found_by" in data else "",
            )
        if found.witness.shape != found.point.shape:
            raise ValueError(f"a witness of shape {found.witness.shape} for a point of shape {found.point.shape}")
    except (*_UNREADABLE, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read the witness {path}: {error}", "delete it; the attack will find it again"
        ) from error
    return found


def all_witnesses(place: Place) -> Iterator[Witness]:
    """Every witness of a run, by name."""
    if isinstance(place, dict):
        yield from (place[name] for name in sorted(place))
    else:
        yield from map(load, sorted(place.glob("*.npz")))
