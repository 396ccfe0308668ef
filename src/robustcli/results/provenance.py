"""How a result was made: versions, commit, hardware, command line, time. Imports no torch."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("robustcli", "torch", "numpy", "scipy", "pydantic", "safetensors", "highspy", "gurobipy")


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions of Python, this package and what it computes with; packages that are not installed are left out."""
    return dict(_versions())


@functools.cache
def hardware() -> str:
    """Processor, usable cores, memory and operating system in one line."""
    parts = [_processor(), f"{_cores()} cores"]
    memory = _memory()
    if memory is not None:
        parts.append(f"{memory / 2**30:.0f} GiB")
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}"])


@functools.cache
def commit() -> str | None:
    """Commit of the checkout this package runs from, with `+changes` if files differ; None when installed."""
    package = Path(__file__).resolve().parent.parent
    try:
        # A package inside some other project's tree (a virtual environment, say) is not tracked there.
        if not _git(package, "ls-files", "__init__.py"):
            return None
        head = _git(package, "rev-parse", "HEAD")
        return f"{head}+changes" if _git(package, "status", "--porcelain", "--", ".") else head
    except (OSError, subprocess.SubprocessError):
        return None


def maker() -> str:
    """This package in a few words: its version, and the commit in a checkout, e.g. `0.3.0 1a2b3c4d5e6f+changes`."""
    head, changes, _ = (commit() or "").partition("+changes")
    return f"{versions().get('robustcli', 'unknown')} {head[:12]}{changes}".rstrip()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def of_script() -> dict[str, Any]:
    """How a document of a script was made: command, commit, versions, hardware, time."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(),
        "time": now(),
    }


def command_line() -> str:
    """The command as typed, quoted for a shell."""
    return shlex.join(["robust", *sys.argv[1:]])


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
