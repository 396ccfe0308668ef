"""Which data sets are there, and whether they are what they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from robustcli.data.datasets import Located, load, locate
from robustcli.data.sources import SOURCES
from robustcli.data.specs import SPLITS, spec
from robustcli.errors import DataError

Status = Literal["verified", "unverified", "found", "partial", "missing", "damaged"]
MEANING = {
    "verified": "equal to the official data, by checksum",
    "unverified": "complete and readable; no official checksum to compare with",
    "found": "the files are there; `robust data check` reads them",
    "partial": "fewer rows than the official split; accepted only with partial=true",
    "missing": "no files",
    "damaged": "truncated, altered or incomplete files",
}
# Split.hash of the official data, for files that have no checksum of their own (npz, unpacked archives). Computed from
# the official MNIST files, from a lossless copy of CIFAR-10's training images and from what is shipped.
CONTENT = {
    ("digits", "train"): "560aa63b22310093aaf74461ed926421dc61ccf52f6587772937bed4721a881c",
    ("digits", "test"): "ddabd0ad994be9a7b92959ca496ae6f054d3bada42843073793d3f5414ab274c",
    ("mnist", "train"): "f9804dd08cf51bec058b36c5f0b4debaa6719af10c20371b1762432a1cbb6a63",
    ("mnist", "test"): "e06cb4bccd6abc7a2d8db59d5b69ca5c935a0e61657292b812ca9273fe4602f6",
    ("toy-2d", "train"): "13f384b6187f931a5b0a72a811d1e8d1f55f926dc404edf6d482d46c182e284b",
    ("toy-2d", "test"): "13f384b6187f931a5b0a72a811d1e8d1f55f926dc404edf6d482d46c182e284b",
    ("cifar10", "train"): "f24b5155319931ccf48427b4eaaff3e94970e69ff86a761bbb72ffc93e6cd25e",
}


@dataclass(frozen=True)
class SplitState:
    """What is known about one split."""

    status: Status
    rows: int | None = None
    official: int | None = None
    format: str | None = None
    files: tuple[str, ...] = ()
    detail: str | None = None


@dataclass(frozen=True)
class State:
    """What is known about a data set."""

    name: str
    folder: str | None
    splits: dict[str, SplitState] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The worst of the splits."""
        order: tuple[Status, ...] = ("damaged", "missing", "partial", "found", "unverified", "verified")
        return min((split.status for split in self.splits.values()), key=order.index)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "status": self.status}


Look = Callable[[str, str, Located, Path | None], SplitState]


def survey(name: str, data_dir: Path | None = None) -> State:
    """A quick look: which files are there and how many rows their headers declare. Nothing is read whole."""
    return _state(name, data_dir, _glance)


def check(name: str, data_dir: Path | None = None) -> State:
    """Read everything, compare checksums of official files and of known contents."""
    return _state(name, data_dir, _inspect)


def _state(name: str, data_dir: Path | None, look: Look) -> State:
    official = spec(name).rows
    splits: dict[str, SplitState] = {}
    folder = None
    for split in SPLITS:
        try:
            located = locate(name, split, data_dir)
            if located is None:
                splits[split] = SplitState("missing", official=official.get(split))
                continue
            folder = folder or str(located.files[0].parent)
            splits[split] = look(name, split, located, data_dir)
        except DataError as error:
            splits[split] = SplitState("damaged", official=official.get(split), detail=error.message)
    return State(name, folder, splits)


def _found(status: Status, located: Located, rows: int | None, official: int | None, detail: str | None) -> SplitState:
    files = tuple(str(path) for path in located.files)
    return SplitState(status, rows, official, located.reader.format, files, detail)


def _glance(name: str, split: str, located: Located, data_dir: Path | None) -> SplitState:
    official = spec(name).rows.get(split)
    rows = located.reader.rows(list(located.files))
    if spec(name).shipped:
        return _found("found", located, official, official, "shipped with the package")
    status: Status = "partial" if rows is not None and official is not None and rows < official else "found"
    return _found(status, located, rows, official, None)


def _inspect(name: str, split: str, located: Located, data_dir: Path | None) -> SplitState:
    official = spec(name).rows.get(split)
    differing, unknown = compare(name, located)
    data = load(name, split, partial=True, data_dir=data_dir)
    if data.partial is not None:
        return _found("partial", located, len(data), official, data.partial)
    pinned = CONTENT.get((name, split))
    if pinned is not None and data.hash == pinned:
        return _found("verified", located, len(data), official, "content equals the official data")
    if differing:
        return _found(
            "damaged", located, len(data), official, f"checksum differs from the official file: {differing[0]}"
        )
    if pinned is not None:
        return _found("damaged", located, len(data), official, "points or labels differ from the official data")
    if unknown:
        return _found("unverified", located, len(data), official, "no official checksum for this form of the files")
    return _found("verified", located, len(data), official, "checksums equal the official ones")


def compare(name: str, located: Located) -> tuple[list[str], list[str]]:
    """Names of files whose checksum differs from the official one, and of files without a known checksum."""
    if name not in SOURCES:
        return [], [path.name for path in located.files]
    known = {file.name: file.checksum for bundle in SOURCES[name].bundles for file in bundle}
    known |= {Path(place).name: checksum for place, checksum in SOURCES[name].unpacked}
    differing, unknown = [], []
    for path in located.files:
        if path.name not in known or not path.is_file():
            unknown.append(path.name)
        elif not matches(path, known[path.name]):
            differing.append(path.name)
    return differing, unknown


def matches(path: Path, checksum: str) -> bool:
    """Whether a file has the checksum `algorithm:hexdigest`."""
    algorithm, digest = checksum.split(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == digest
