"""SVHN's cropped digits: MATLAB files with X [32, 32, 3, n] uint8 and y [n, 1], where label 10 means the digit 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustcli.data.readers.base import Arrays, Reader, damaged
from robustcli.data.specs import Spec
from robustcli.errors import DataError


def find(folder: Path, split: str) -> list[Path] | None:
    """The one file of a split."""
    path = folder / f"{split}_32x32.mat"
    return [path] if path.exists() else None


def rows(files: list[Path]) -> int | None:
    """The last extent of X, from the header."""
    from scipy.io import whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(files[0])}
    except Exception as error:
        raise _unreadable(files[0], error) from error
    return shapes["X"][-1] if "X" in shapes else None


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Images [n, 3, 32, 32] uint8 and labels 0..9 [n]."""
    from scipy.io import loadmat

    path = files[0]
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:
        raise _unreadable(path, error) from error
    if "X" not in content or "y" not in content:
        raise damaged(path, "has no variables X and y")
    images, labels = content["X"], content["y"].ravel()
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise damaged(path, f"X is {images.dtype} {list(images.shape)}, expected uint8 [32, 32, 3, n]")
    if labels.dtype.kind not in "iu" or (labels.size and not (labels.min() >= 1 and labels.max() <= 10)):
        raise damaged(path, "labels outside 1..10")
    numbers = labels.astype(np.int64)
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), np.where(numbers == 10, 0, numbers)


def _unreadable(path: Path, error: Exception) -> DataError:
    """scipy raises many kinds of errors on damaged files (its own, zlib's, struct's); all mean the same here."""
    return damaged(path, f"is not a readable MATLAB file ({type(error).__name__}: {error})")


READER = Reader("SVHN .mat", find, rows, read)
