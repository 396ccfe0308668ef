"""Adversarial inputs on disk, readable with numpy alone and named by their content. Imports no torch.

    witnesses/<index>-<16 hex>.npy    the input, float64, in the shape of one point
    witnesses/<index>-<16 hex>.json   what is known of it: index, label, norm, eps or distance, margin, model, and the
                                      clean point (flat), from which its distance can be recomputed
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustcli.errors import DataError
from robustcli.files import write_bytes, write_text


@dataclass(frozen=True)
class Witness:
    """A stored input.

    Args:
        x: float64, in the shape of one point.
        point: the clean point, same shape; None where it was not stored.
        meta: index, label, norm, margin, ...
    """

    x: np.ndarray
    point: np.ndarray | None
    meta: dict[str, Any]


def store(folder: Path, x: np.ndarray, meta: Mapping[str, Any], point: np.ndarray | None = None) -> str:
    """Write an input once; its file name.

    Args:
        folder: `RunFolder.witnesses`.
        x: float64, in the shape of one point.
        meta: at least `index`; JSON values.
        point: the clean point.
    Raises:
        UsageError: when the folder cannot be written.
    """
    x = np.ascontiguousarray(x, dtype=np.float64)
    digest = hashlib.sha256(f"{meta.get('model')}".encode() + x.tobytes()).hexdigest()[:16]
    path = folder / f"{meta['index']}-{digest}.npy"
    if not path.is_file():
        clean = None if point is None else np.asarray(point, dtype=np.float64).ravel().tolist()
        # The array comes last: an input is there only once all that is known of it is.
        write_text(path.with_suffix(".json"), json.dumps({**meta, "point": clean}) + "\n")
        buffer = io.BytesIO()
        np.save(buffer, x, allow_pickle=False)
        write_bytes(path, buffer.getvalue())
    return path.name


def load(folder: Path, name: str) -> Witness:
    """Read an input.

    Raises:
        DataError: when it is missing or damaged.
    """
    path = folder / name
    try:
        x = np.load(path, allow_pickle=False)
        meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        clean = meta.pop("point", None)
        point = None if clean is None else np.array(clean, dtype=np.float64).reshape(x.shape)
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise DataError(f"cannot read the witness {path}: {error}", "delete it; the attack will find it again") from error
    return Witness(x, point, meta)


def names(folder: Path, index: int | None = None) -> list[str]:
    """File names of the inputs stored for one test point, or for all."""
    return sorted(path.name for path in folder.glob("*.npy" if index is None else f"{index}-*.npy"))
