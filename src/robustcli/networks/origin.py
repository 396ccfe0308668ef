"""Where an imported network comes from and what its authors measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origin:
    """Origin of a network. Figures are fractions; `clean_error` is the test error on the whole test split."""

    name: str
    dataset: str | None = None
    source: str | None = None
    sha256: str | None = None
    """sha256 of the authors' file, whichever form the weights are read from."""
    licence: str | None = None
    norm: str | None = None
    eps: float | None = None
    """What it was trained against: l1, l2 or linf, and the radius."""
    figures: Mapping[str, float] = field(default_factory=dict)
    where: str | None = None
    """Where the figures are printed."""
    notes: tuple[str, ...] = ()
    """What was decided while reading, for the user."""

    @property
    def clean_error(self) -> float | None:
        return self.figures.get("clean_error")
