"""The embedded digits: one file beside this package, in the order of UCI's optdigits.tes, split by row."""

from __future__ import annotations

from importlib.resources import files as package_files
from pathlib import Path

from robustcli.data.readers.base import Arrays, Reader
from robustcli.data.readers.npz import arrays
from robustcli.data.specs import SPECS, Spec

FILE = "digits.npz"


def find(folder: Path, split: str) -> list[Path] | None:
    """The shipped file, whatever the folder."""
    return [Path(str(package_files("robustcli.data") / FILE))]


def rows(files: list[Path]) -> int | None:
    """Both splits share the file, so a look at it tells nothing."""
    return None


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Images [n, 1, 8, 8] uint8 with values 0..16: the first 1,297 rows train, the last 500 test."""
    images, labels = arrays(files[0])
    first = SPECS["digits"].rows["train"]
    part = slice(None, first) if split == "train" else slice(first, None)
    return images[part, None], labels[part]


READER = Reader("digits", find, rows, read)
