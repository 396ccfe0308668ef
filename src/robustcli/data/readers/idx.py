"""The idx format of MNIST and Fashion-MNIST, gzipped or not.

Layout: two zero bytes, a type byte (8: uint8), the number of dimensions, each extent as big-endian int32, the values.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO

import numpy as np

from robustcli.data.readers.base import Arrays, Reader, both, damaged, first_existing, guarded
from robustcli.data.specs import Spec

PREFIX = {"train": "train", "test": "t10k"}
UINT8 = 8


def find(folder: Path, split: str) -> list[Path] | None:
    """Images and labels of a split under their official names, with or without .gz."""
    names = (folder / f"{PREFIX[split]}-images-idx3-ubyte.gz", folder / f"{PREFIX[split]}-labels-idx1-ubyte.gz")
    return both([first_existing(name, name.with_suffix("")) for name in names], names)


def rows(files: list[Path]) -> int:
    """The number of rows both files declare (labels checked against images)."""
    counts = []
    for path, dimensions in zip(files, (3, 1), strict=True):
        with guarded(path), _open(path) as file:
            counts.append(_shape(file, path, dimensions)[0])
    if counts[0] != counts[1]:
        raise damaged(files[1], f"{counts[1]} labels for {counts[0]} images")
    return counts[0]


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Images [n, 1, H, W] uint8 and labels [n] uint8."""
    images, labels = (_array(path, dimensions) for path, dimensions in zip(files, (3, 1), strict=True))
    return images[:, None], labels


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _shape(file: IO[bytes], path: Path, dimensions: int) -> tuple[int, ...]:
    """Read the header; the magic number fixes type and number of dimensions."""
    head = file.read(4)
    wanted = bytes((0, 0, UINT8, dimensions))
    if head != wanted:
        raise damaged(
            path, f"wrong magic number {head.hex() or '(empty file)'}, idx files of this kind have {wanted.hex()}"
        )
    extents = file.read(4 * dimensions)
    if len(extents) < 4 * dimensions:
        raise damaged(path, "ends inside the header")
    return tuple(int(extent) for extent in np.frombuffer(extents, ">u4"))


def _array(path: Path, dimensions: int) -> np.ndarray:
    with guarded(path), _open(path) as file:
        shape = _shape(file, path, dimensions)
        size = int(np.prod(shape, dtype=np.int64))
        # One byte more than declared is asked for, to notice files that are too long without reading all of them.
        content = file.read(size + 1)
        if len(content) != size:
            more = "more" if len(content) > size else f"only {len(content)}"
            raise damaged(path, f"the header declares {size} bytes ({shape[0]} rows), the file holds {more}")
        return np.frombuffer(content, np.uint8).reshape(shape)


READER = Reader("idx", find, rows, read)
