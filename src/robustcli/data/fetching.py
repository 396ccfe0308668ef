"""Downloads: official address first, then mirrors; resumed where they stopped, checked, and only then put in place.

A file grows in `.NAME.part` beside its final place. Once complete it is compared with its pinned checksum (by pooch)
and moved in one step, so a data folder never holds half a file under an official name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from robustcli.data.sources import File, placing_hint, source, target
from robustcli.errors import DataError, UsageError

Progress = Callable[[str, int, int], None]
CHUNK = 1 << 18
TIMEOUT = 30


def _silent(file: str, done: int, size: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Resuming:
    """A pooch downloader that continues the bytes already in `part`, and reports (file, done, size) as it goes."""

    part: Path
    file: File
    progress: Progress

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Complete `part` from the URL, then move it to `output_file`."""
        import requests

        done = self.part.stat().st_size if self.part.exists() else 0
        if done > self.file.size:
            self.part.unlink()
            done = 0
        if done < self.file.size:
            # Without `identity` some servers deliver .gz files already unpacked, which no checksum matches.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                response.raise_for_status()
                resumed = response.status_code == requests.codes.partial_content
                done = done if resumed else 0
                with self.part.open("ab" if resumed else "wb") as out:
                    for chunk in response.iter_content(CHUNK):
                        out.write(chunk)
                        done += len(chunk)
                        self.progress(self.file.name, done, self.file.size)
        os.replace(self.part, output_file)


def fetch(name: str, data_dir: Path | None = None, progress: Progress = _silent) -> list[Path]:
    """Download a data set; files already there with the right checksum are kept.

    Args:
        name: a data set of `robust data list`.
        data_dir: put it under this folder instead of $ROBUST_DATA_DIR or the cache.
        progress: called with (file name, bytes done, bytes in all).
    Returns:
        the official files.
    Raises:
        UsageError: for what is shipped, npz:PATH and unknown names, or when the folder cannot be written.
        DataError: when a file cannot be had from any address; says which files to put where.
    """
    problems: list[str] = []
    folder = target(name, data_dir)
    for bundle in source(name).bundles:
        paths = [_fetch_file(file, folder, progress, problems) for file in bundle]
        found = [path for path in paths if path is not None]
        if len(found) == len(bundle):
            return found
    raise DataError(f"could not download {name}: {'; '.join(problems)}", placing_hint(name, data_dir, fetch=False))


def fetch_all(
    names: Sequence[str], data_dir: Path | None = None, progress: Progress = _silent
) -> tuple[dict[str, list[Path]], DataError | None]:
    """Download several data sets, going on after a failure.

    Returns:
        the files of the data sets that could be had, and one error over those that could not.
    Raises:
        UsageError: when a name is unknown or nothing to download; before anything is downloaded.
    """
    for name in names:
        source(name)
    done: dict[str, list[Path]] = {}
    failed: list[DataError] = []
    for name in names:
        try:
            done[name] = fetch(name, data_dir, progress)
        except DataError as error:
            failed.append(error)
    if not failed:
        return done, None
    hints = [error.hint for error in failed if error.hint]
    return done, DataError("\n".join(error.message for error in failed), "\n  ".join(hints))


def _fetch_file(file: File, folder: Path, progress: Progress, problems: list[str]) -> Path | None:
    """One file from the first address that has it; None, and the reasons in `problems`, when none does."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    path = folder / file.name
    downloader = Resuming(folder / f".{file.name}.part", file, progress)
    reasons = []
    for url in file.urls:
        host = urlsplit(url).hostname
        try:
            return Path(pooch.retrieve(url, file.checksum, file.name, folder, downloader=downloader))
        except requests.HTTPError as error:
            reasons.append(
                f"{host} answered {error.response.status_code if error.response is not None else 'with an error'}"
            )
        except requests.Timeout:
            reasons.append(f"{host} did not answer in time")
        except requests.RequestException:
            reasons.append(f"no connection to {host}")
        except ValueError:
            reasons.append(f"what {host} sent has another checksum")
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error.strerror or error}",
                "free some space, or set ROBUST_DATA_DIR to another folder",
            ) from error
    problems.append(f"{file.name} ({', '.join(reasons)})")
    return None
