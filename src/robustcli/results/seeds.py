"""Several seeds: as users write them, and mean and standard deviation over them."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

from robustcli.errors import UsageError
from robustcli.results.rows import Row

Figure = Callable[[Sequence[float]], float]
FIGURES: tuple[tuple[Literal["mean", "sd"], Figure], ...] = (("mean", statistics.fmean), ("sd", statistics.stdev))


def several(text: str) -> list[int]:
    """Seeds from `0-4` (both ends included), `0,3,7` or `0-2,7`; ascending, each once.

    Raises:
        UsageError: when it is no such list.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise UsageError(f"{text!r} is no list of seeds", "write 0-4, or 0,3,7")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1), the latter None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def over_seeds(found: Sequence[Row]) -> list[Row]:
    """A mean row and a standard deviation (n - 1) row for a model with several seeds on the same points and balls."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        groups[repr((row.name, row.dataset, sorted(row.eps.items()), row.boxed, row.range))].append(row)
    added: list[Row] = []
    for group in groups.values():
        if len({row.seed for row in group}) < 2:
            continue
        for kind, figure in FIGURES:
            first = group[0]
            added.append(
                first.model_copy(
                    update={
                        "kind": kind,
                        "seed": None,
                        "seeds": len(group),
                        "model": None,
                        "sources": [],
                        "test_error": _over([row.test_error for row in group], figure),
                        "test_error_here": _over([row.test_error_here for row in group], figure),
                        "lower": _over_norms([row.lower for row in group], figure),
                        "upper": _over_norms([row.upper for row in group], figure),
                    }
                )
            )
    return added


def _over(values: Sequence[float | None], figure: Figure) -> float | None:
    known = [value for value in values if value is not None]
    return figure(known) if len(known) == len(values) else None


def _over_norms(values: Sequence[dict[str, float]], figure: Figure) -> dict[str, float]:
    shared = [norm for norm in values[0] if all(norm in other for other in values)]
    return {norm: figure([value[norm] for value in values]) for norm in shared}
