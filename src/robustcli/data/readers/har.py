"""UCI HAR's text files: X_<split>.txt with 561 numbers a line, y_<split>.txt with labels 1..6.

They are read unpacked, from the authors' zip, or from the zip UCI wraps around that.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from robustcli.data.readers.base import Arrays, Reader, both, damaged, guarded
from robustcli.data.specs import Spec

OUTER = "human+activity+recognition+using+smartphones.zip"
INNER = "UCI HAR Dataset.zip"
FOLDER = "UCI HAR Dataset"


def find(folder: Path, split: str) -> list[Path] | None:
    """The two text files of a split, or the zip that holds them."""
    for place in (folder / FOLDER / split, folder / split, folder):
        names = (place / f"X_{split}.txt", place / f"y_{split}.txt")
        pair = both([name if name.exists() else None for name in names], names)
        if pair is not None:
            return pair
    return next(([folder / name] for name in (OUTER, INNER) if (folder / name).exists()), None)


def rows(files: list[Path]) -> int | None:
    """The number of labels; unknown inside a zip."""
    if len(files) == 1:
        return None
    with guarded(files[1]):
        return len(files[1].read_bytes().split())


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Features [n, 561] float64 as given, labels 0..5 [n]."""
    names = [f"X_{split}.txt", f"y_{split}.txt"]
    if len(files) == 2:
        texts = []
        for path in files:
            with guarded(path):
                texts.append(path.read_bytes())
    else:
        texts = _unzip(files[0], [f"{FOLDER}/{split}/{name}" for name in names])
        files = [Path(f"{files[0]}:{name}") for name in names]
    with guarded(files[0]):
        points = np.loadtxt(io.BytesIO(texts[0]), dtype=np.float64, ndmin=2)
    with guarded(files[1]):
        labels = np.loadtxt(io.BytesIO(texts[1]), dtype=np.int64, ndmin=1)
    if labels.size and not (labels.min() >= 1 and labels.max() <= spec.classes):
        raise damaged(files[1], f"labels outside 1..{spec.classes}")
    return points, labels - 1


def _unzip(path: Path, names: list[str]) -> list[bytes]:
    """Members of the authors' zip, which may lie in UCI's; read in memory."""
    with guarded(path), zipfile.ZipFile(path) as archive:
        if INNER in archive.namelist():
            with zipfile.ZipFile(io.BytesIO(archive.read(INNER))) as inner:
                return [inner.read(name) for name in names]
        return [archive.read(name) for name in names]


READER = Reader("UCI HAR text", find, rows, read)
