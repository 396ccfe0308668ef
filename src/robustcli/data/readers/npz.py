"""train.npz and test.npz: arrays `images` ([n, H, W], [n, H, W, C] or features [n, d]) and `labels` [n].

Read without pickles: an array of Python objects is refused.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from robustcli.data.readers.base import Arrays, Reader, damaged, guarded
from robustcli.data.specs import Spec


def find(folder: Path, split: str) -> list[Path] | None:
    """The one file of a split."""
    path = folder / f"{split}.npz"
    return [path] if path.exists() else None


def rows(files: list[Path]) -> int:
    """The number of labels, from the header."""
    shape, _ = header(files[0], "labels")
    return shape[0] if shape else 0


def header(path: Path, array: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one array of the file, without reading its values.

    Raises:
        DataError: when the array is missing or holds Python objects.
    """
    with guarded(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if f"{array}.npy" not in names:
            found = ", ".join(name.removesuffix(".npy") for name in names) or "nothing"
            raise damaged(path, f"has no array `{array}` (found {found})")
        with archive.open(f"{array}.npy") as file:
            version = npy.read_magic(file)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise damaged(path, f"`{array}` holds Python objects, which are never loaded; store plain numbers")
    return shape, dtype


def arrays(path: Path) -> Arrays:
    """`images` and `labels` as stored."""
    for name in ("images", "labels"):
        header(path, name)
    with guarded(path), np.load(path, allow_pickle=False) as content:
        return content["images"], content["labels"]


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Points [n, *input_shape] and labels [n]; channels are moved to the front."""
    images, labels = arrays(files[0])
    return channels_first(images, spec.input_shape), labels


def channels_first(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[n, H, W] or [n, H, W, C] -> [n, C, H, W]; arrays that already have the wanted shape stay."""
    if images.shape[1:] == shape:
        return images
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if images.ndim == 4 else images


READER = Reader("npz", find, rows, read)
