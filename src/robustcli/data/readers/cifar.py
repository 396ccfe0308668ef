"""CIFAR-10's python batches, unpacked or inside the official tar.gz, through a reader that executes nothing.

Each batch is a pickled dict with `data` (uint8 [10000, 3072], channels first) and `labels` (list). A pickle is a
program that may call any importable function; this reader knows only the few names needed to rebuild a numeric array,
each replaced by a narrow stand-in, and refuses every other one.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from robustcli.data.readers.base import Arrays, Reader, damaged, guarded
from robustcli.data.specs import Spec
from robustcli.errors import DataError

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
NUMERIC = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"}


class _ArrayType:
    """Stands for numpy.ndarray in a pickle: only a tag, so that nothing can be allocated through it."""


def _reconstruct(kind: object, shape: object, code: object) -> np.ndarray:
    """numpy's empty array, to be filled by its state."""
    if kind is not _ArrayType or shape != (0,):
        raise pickle.UnpicklingError("an array that is not a plain one")
    return np.ndarray((0,), np.uint8)


def _dtype(code: object, *rest: object) -> np.dtype:
    """A numeric dtype."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if text not in NUMERIC:
        raise pickle.UnpicklingError(f"an array of type {text!r}")
    return np.dtype(str(text))


def _encode(text: object, codec: object = "latin1") -> bytes:
    """How Python 3 writes bytes in old pickles."""
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text in codec {codec!r}")
    return text.encode("latin1")


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds containers, numbers, text and numeric arrays; every other name is refused, never imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data files have no use for; not executed")
        return ALLOWED[module, name]


def unpickle(content: bytes, path: Path | str) -> object:
    """The object in a pickle of plain data.

    Raises:
        DataError: when it is damaged or asks for anything but plain data.
    """
    with guarded(path):
        return ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()


def find(folder: Path, split: str) -> list[Path] | None:
    """The batches of a split, or the archive that holds them."""
    batches = [folder / FOLDER / name for name in BATCHES[split]]
    missing = [path for path in batches if not path.exists()]
    if not missing:
        return batches
    if (folder / ARCHIVE).exists():
        return [folder / ARCHIVE]
    if len(missing) < len(batches):
        raise DataError(f"{missing[0]} is missing, {len(batches) - len(missing)} of {len(batches)} batches are there")
    return None


def rows(files: list[Path]) -> int | None:
    """Unknown without reading the batches."""
    return None


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Images [n, 3, 32, 32] uint8 and labels [n]."""
    if files[0].name == ARCHIVE:
        parts = [_batch(content, name) for name, content in _members(files[0], split)]
    else:
        parts = []
        for path in files:
            with guarded(path):
                content = path.read_bytes()
            parts.append(_batch(content, path))
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _members(archive: Path, split: str) -> list[tuple[str, bytes]]:
    """The batches inside the archive, read in memory: nothing is unpacked to disk."""
    wanted = {f"{FOLDER}/{name}": b"" for name in BATCHES[split]}
    found = 0
    with guarded(archive), tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and (file := tar.extractfile(member)) is not None:
                wanted[member.name] = file.read()
                found += 1
            if found == len(wanted):
                break
    for name, content in wanted.items():
        if not content:
            raise damaged(archive, f"{name} is not in it")
    return [(f"{archive}:{name}", content) for name, content in wanted.items()]


def _batch(content: bytes, path: Path | str) -> Arrays:
    batch = unpickle(content, path)
    if not isinstance(batch, dict):
        raise damaged(path, "is not a CIFAR batch (no dict)")
    data = batch.get(b"data", batch.get("data"))
    labels = batch.get(b"labels", batch.get("labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise damaged(path, "`data` is not a uint8 array of 3,072 columns")
    with guarded(path):
        numbers = np.asarray(labels, dtype=np.int64)
    if numbers.shape != data.shape[:1]:
        raise damaged(path, f"{numbers.size} labels for {len(data)} images")
    return data.reshape(-1, 3, 32, 32), numbers


READER = Reader("CIFAR-10 python batches", find, rows, read)
