"""Ctrl-C and termination signals as a question the loop asks between two steps, and one trainer per run folder."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from robustcli.errors import UsageError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextlib.contextmanager
def listening(patient: bool = False) -> Iterator[StopRequest]:
    """The first signal sets the request; a second one raises KeyboardInterrupt at once. Old handlers come back.

    Signals reach only the main thread; elsewhere the request stays unset.

    Args:
        patient: later signals are ignored. `torchrun` hands a Ctrl-C of the terminal, which its processes have seen
            already, to them once more; it ends those that do not stop within half a minute itself.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.asked and not patient:
            raise KeyboardInterrupt
        request.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system releases it however the process ends. Does nothing where no locks exist.

    Raises:
        UsageError: when another training holds it, or the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}", "free some space, or choose another folder with --runs"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # of any other kind: a file system without locks, where nobody is kept out
            if isinstance(error, BlockingIOError):
                raise UsageError(
                    f"another `robust train` works in {folder}",
                    "wait for it, or give this one another --seed or --runs",
                ) from error
        yield
