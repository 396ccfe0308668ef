"""From a name to arrays: find the files, read them, refuse what is incomplete or wrong. Torch is imported when used.

split = load("mnist", "test")
x = split.points(slice(0, 8), dtype=torch.float32)      # [8, 1, 28, 28] in the box [0, 1]
y = split.labels_tensor(slice(0, 8))                    # [8] int64
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustcli.data import own
from robustcli.data.readers import ARRAYS, OFFICIAL
from robustcli.data.readers.base import Reader, guarded
from robustcli.data.sources import folders, placing_hint, roots
from robustcli.data.specs import OWN_PREFIX, SPLITS, Spec, spec
from robustcli.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Index = slice | int | Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, in memory as stored.

    Args:
        spec: the data set's declaration.
        name: `train` or `test`.
        images: [n, *input_shape], channels first, uint8 or float, unscaled.
        labels: [n] int64.
        partial: None, or which part of the official split this is: `1000 of 10000 test rows`.
        files: where it was read from.
    """

    spec: Spec
    name: str
    images: np.ndarray
    labels: np.ndarray
    partial: str | None
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of type, shape and bytes of both arrays: the same pixels from any file format hash alike."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            digest.update(f"{array.dtype.str}{list(array.shape)}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def points(
        self, index: Index, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Tensor:
        """What the network sees: stored values / scale, [B, *input_shape].

        Args:
            index: rows, as a slice, list, array or integer tensor (one integer gives B = 1).
            dtype: float64 unless given; the division is done in this type.
            device: where the result lies.
        """
        import torch

        chosen = torch.from_numpy(np.ascontiguousarray(self.images[_rows(index)]))
        return chosen.to(device).to(dtype or torch.float64) / self.spec.scale

    def labels_tensor(self, index: Index, device: str | torch.device | None = None) -> Tensor:
        """Labels of the rows, [B] int64; arguments as in `points`."""
        import torch

        return torch.from_numpy(self.labels[_rows(index)].copy()).to(device)


def _rows(index: Index) -> slice | np.ndarray:
    if isinstance(index, slice):
        return index
    if hasattr(index, "detach"):
        index = index.detach().cpu().numpy()
    return np.atleast_1d(np.asarray(index, dtype=np.int64))


@dataclass(frozen=True)
class Located:
    """Where a split was found: the files and the reader that knows them."""

    reader: Reader
    files: tuple[Path, ...]


def locate(name: str, split: str, data_dir: Path | None = None) -> Located | None:
    """The files a split would be read from, the official format first; None when there are none.

    Raises:
        UnknownNameError: for an unknown data set or split.
        DataError: when only half of the files that belong together are there.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if name.startswith(OWN_PREFIX):
        files = own.find(own.folder_of(name), split)
        return None if files is None else Located(own.READER, tuple(files))
    spec(name)
    places = folders(name, data_dir)
    # Loose train.npz files count only in a folder that carries the data set's name.
    for reader, where in ((OFFICIAL[name], places), (ARRAYS, [place for place in places if place.name == name])):
        for place in where:
            with guarded(place):
                files = reader.find(place, split)
            if files is not None:
                return Located(reader, tuple(files))
    return None


def load(name: str, split: str, *, partial: bool = False, data_dir: Path | None = None) -> Split:
    """A split by name.

    Args:
        name: as in `robust data list`, or `npz:PATH`.
        split: `train` or `test`.
        partial: accept fewer rows than the official split has.
        data_dir: search this folder instead of $ROBUST_DATA_DIR and the cache.
    Raises:
        UnknownNameError: for an unknown data set or split.
        DataError: when files are missing, damaged, or (without `partial`) incomplete.
    """
    declared = spec(name)
    located = locate(name, split, data_dir)
    if located is None:
        raise missing(name, split, data_dir)
    images, labels = located.reader.read(list(located.files), split, declared)
    where = ", ".join(path.name for path in located.files[:2]) + (", ..." if len(located.files) > 2 else "")
    labels = checked_labels(declared, split, images, labels, f"{name} ({where} in {located.files[0].parent})")
    text = partial_text(declared, split, len(labels))
    if text and not partial:
        raise DataError(
            f"{name}: the files in {located.files[0].parent} hold {text}",
            f"get the full set (`robust data fetch {name}`), or accept the part with `partial: true` in the recipe or "
            "--set partial=true (for a trained network: --partial); every result then says so",
        )
    return Split(declared, split, native(images), labels, text, located.files)


def missing(name: str, split: str, data_dir: Path | None = None) -> DataError:
    """The error for a data set that is nowhere: where it was looked for and what to do."""
    if name.startswith(OWN_PREFIX):
        return DataError(
            f"{name}: no {split}.npz in {own.folder_of(name)}", f"this split was asked for; write {split}.npz"
        )
    looked = " and ".join(str(root) for root in roots(data_dir))
    return DataError(f"data set {name!r} ({split} split) is not in {looked}", placing_hint(name, data_dir))


def native(images: np.ndarray) -> np.ndarray:
    """The same values as torch wants them: contiguous, writable, uint8, float32 or float64 in native byte order."""
    known = images.dtype in (np.uint8, np.float32, np.float64)
    dtype = images.dtype.newbyteorder("=") if known else np.dtype(np.float64)
    return np.require(images, dtype, ["C", "W"])


def partial_text(declared: Spec, split: str, rows: int) -> str | None:
    """None for the full split, else `1000 of 10000 test rows`."""
    official = declared.rows.get(split, rows)
    return None if rows == official else f"{rows} of {official} {split} rows"


def checked_labels(declared: Spec, split: str, images: np.ndarray, labels: np.ndarray, where: str) -> np.ndarray:
    """Refuse arrays that are not what the data set declares; else the labels as int64 [n].

    Raises:
        DataError: wrong shape, type, values or number of rows; `where` names the files.
    """
    problem = _labels_problem(declared, split, images, labels) or _points_problem(declared, images)
    if problem is not None:
        raise DataError(
            f"{where}: {problem}", "the files are damaged or belong to another data set; see `robust data check`"
        )
    return labels.reshape(-1).astype(np.int64)


def _labels_problem(declared: Spec, split: str, images: np.ndarray, labels: np.ndarray) -> str | None:
    rows, official = len(images), declared.rows.get(split)
    if labels.size != rows or len(labels) != rows:
        return f"{list(labels.shape)} labels for {rows} points"
    if rows == 0:
        return "no rows at all"
    if official is not None and rows > official:
        return f"{rows} rows, the official {split} split has {official}"
    if labels.dtype.kind not in "iu":
        return f"labels are {labels.dtype}, expected integers"
    if labels.min() < 0 or labels.max() >= declared.classes:
        return f"labels reach from {labels.min()} to {labels.max()}, expected 0..{declared.classes - 1}"
    return None


def _points_problem(declared: Spec, images: np.ndarray) -> str | None:
    if images.shape[1:] != declared.input_shape:
        return f"points have shape {list(images.shape[1:])}, expected {list(declared.input_shape)}"
    scaled_bytes = declared.scale != 1 and not declared.name.startswith(OWN_PREFIX)
    if images.dtype != np.uint8 and (scaled_bytes or images.dtype.kind != "f"):
        return f"points are {images.dtype}, expected uint8" + ("" if scaled_bytes else " or float")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        return "points hold NaN or infinite values"
    if declared.box is not None:
        low, high = float(images.min()) / declared.scale, float(images.max()) / declared.scale
        if low < declared.box[0] or high > declared.box[1]:
            return f"scaled values reach from {low:g} to {high:g}, outside the box {list(declared.box)}"
    return None
