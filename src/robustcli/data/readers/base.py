"""What every reader of a file format provides, and how damaged files are reported."""

from __future__ import annotations

import contextlib
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustcli.data.specs import Spec
from robustcli.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Reader:
    """One file format.

    Args:
        format: its name, for messages.
        find: (folder, split) -> the files a split would be read from, or None when they are not in the folder.
        rows: files -> number of rows by a look at the headers, or None when that would need the whole file.
        read: (files, split, spec) -> points [n, *input_shape] as stored (channels first), labels [n].
    """

    format: str
    find: Callable[[Path, str], list[Path] | None]
    rows: Callable[[list[Path]], int | None]
    read: Callable[[list[Path], str, Spec], Arrays]


def damaged(path: Path | str, what: str) -> DataError:
    """The error for a file that is not what it should be: `what` says how it differs."""
    return DataError(
        f"{path}: {what}", "the file is truncated, altered or another one; `robust data check` compares checksums"
    )


@contextlib.contextmanager
def guarded(path: Path | str) -> Iterator[None]:
    """Turn what the standard readers raise on damaged files into a DataError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename or path}: no such file", "`robust data check` lists what is missing"
        ) from error
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror or error})") from error
    except (
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        tarfile.TarError,
        pickle.UnpicklingError,
    ) as error:
        raise damaged(path, f"cannot be decoded ({error})") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, MemoryError, RecursionError) as error:
        raise damaged(path, f"does not have the expected content ({error})") from error


def first_existing(*paths: Path) -> Path | None:
    """The first path that exists."""
    return next((path for path in paths if path.exists()), None)


def both(found: Sequence[Path | None], names: Sequence[Path]) -> list[Path] | None:
    """Two files that only make sense together: both, or None when neither is there.

    Raises:
        DataError: when one of them is missing; `names` are the paths they should have.
    """
    first, second = found
    if first is not None and second is not None:
        return [first, second]
    if first is None and second is None:
        return None
    present, absent = (first, names[1]) if first is not None else (second, names[0])
    raise DataError(f"{present} is there, but {absent} is missing", "images and labels are needed together")
