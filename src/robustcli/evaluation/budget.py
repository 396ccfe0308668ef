"""How much may be spent: passes per point, or time for all points together."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from robustcli.errors import UsageError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """Passes per point, or seconds for a whole question; None: no limit."""

    passes: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> Budget:
        """`2000` is passes per point, `60s`, `5m` or `1h` a time; None no limit.

        Raises:
            UsageError: for anything else.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", text.replace("_", "").strip())
        value = float(match[1]) if match else 0.0
        if match is None or value <= 0 or (match[2] is None and "." in match[1]):
            raise UsageError(
                f"budget {text!r} is neither passes per point nor a time", "write 2000, or a time such as 60s, 5m or 1h"
            )
        return cls(passes=int(value)) if match[2] is None else cls(seconds=value * UNITS[match[2]])

    def __str__(self) -> str:
        return f"{self.passes} passes" if self.seconds is None else f"{self.seconds:g} s"


class Clock:
    """The time left, from the first look on.

    Args:
        budget: without seconds there is always time.
    """

    def __init__(self, budget: Budget) -> None:
        self.seconds, self.begin = budget.seconds, 0.0

    def over(self) -> bool:
        """Whether the time is up."""
        self.begin = self.begin or time.monotonic()
        return self.seconds is not None and time.monotonic() - self.begin >= self.seconds
