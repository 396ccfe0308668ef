"""Ctrl-C and termination: what they mean in each phase of a command.

Loading: leave at once, there is nothing to lose (an exception there ends in a traceback, or in an abort inside torch's
own initialisation). Working: KeyboardInterrupt, so that what was decided is kept. Done: too late to matter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(_signal: int, _frame: object) -> NoReturn:
    """Say so and end the process; for phases in which no file is open for writing."""
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted\n")
    os._exit(130)


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """Let the command put its things in order."""
    raise KeyboardInterrupt


def listen(handler: signal._HANDLER) -> None:
    """Set the handler of both signals."""
    for number in SIGNALS:
        signal.signal(number, handler)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While modules are imported: leave at once. Old handlers come back. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
