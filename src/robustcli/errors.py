"""One exception tree. Each error says what is wrong, where, and what to do; its class fixes the exit code.

RobustError                 1   internal error
  ContradictionError        1   two records claim `robust` and `vulnerable` for the same question
  UsageError                2   a wrong option or value
    UnknownNameError        2   an unknown name, with the nearest known one
    RecipeError             2   a recipe that does not hold together
  DataError                 3   data missing, truncated or altered
  CheckpointError           3   a checkpoint or model file that cannot be used
  SolverError               4   a solver missing, failing, or without a sufficient licence
  IncompleteError           5   requested points left unprocessed
  Interrupted             130   Ctrl-C; what was decided until then is kept
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobustError(Exception):
    """Base of all errors meant for the user.

    Args:
        message: what is wrong and where (file, key, value), one sentence.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class ContradictionError(RobustError):
    """Two records cannot both be true."""


class UsageError(RobustError):
    """An option or value the command cannot work with."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in the list of known names of its kind."""

    def __init__(self, kind: str, name: str, known: Iterable[str], more: str | None = None) -> None:
        known = sorted(known)
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}" if len(known) <= 12 else None
        super().__init__(f"unknown {kind} {name!r}", "; ".join(filter(None, [hint, more])) or None)


class RecipeError(UsageError):
    """A recipe with unknown keys, wrong values or contradictions (all of them listed at once)."""


class DataError(RobustError):
    """Data that is missing, truncated or not what its checksum says."""

    exit_code = 3


class CheckpointError(RobustError):
    """A checkpoint that is missing, damaged, or of another architecture."""

    exit_code = 3


class SolverError(RobustError):
    """No usable solver: not installed, licence expired or too small."""

    exit_code = 4


class IncompleteError(RobustError):
    """The command ended with requested points unprocessed."""

    exit_code = 5


class Interrupted(RobustError):
    """Stopped by Ctrl-C or a termination signal."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return matches[0] if matches else None


def one_line(error: Exception) -> str:
    """What another library's error says, in one line; a failed validation as `key: what is wrong`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    parts = getattr(error, "errors", None)
    if not callable(parts):
        return " ".join(str(error).split())
    return "; ".join(": ".join(filter(None, [".".join(map(str, part["loc"])), part["msg"]])) for part in parts())
