"""Terms that a loss of bounds adds to its cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.types import MarginBounds
from robustcli.networks.network import Network
from robustcli.training.objective import Moment


@dataclass(frozen=True)
class Pass:
    """One pass of bounds over a batch.

    Args:
        network: as the bounds saw it.
        ball: around the B points.
        rows: functionals of the logits, [B, T, K].
        found: their bounds and the hidden ones below, with gradients.
    """

    network: Network
    ball: Ball
    rows: Tensor
    found: MarginBounds


class Term(Protocol):
    """Something to add to the loss, from a pass."""

    def __call__(self, seen: Pass, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted term, a mean over the points, and scalars to report by name."""
        ...


def added(terms: Sequence[Term], passes: Sequence[Pass], moment: Moment) -> tuple[Tensor | float, dict[str, Tensor]]:
    """The sum of all terms, each the mean over the passes, and what they report; 0 without terms."""
    total: Tensor | float = 0.0
    parts: dict[str, Tensor] = {}
    for term in terms:
        values, told = zip(*(term(seen, moment) for seen in passes), strict=True)
        total = total + torch.stack(values).mean()
        parts |= {name: torch.stack([each[name] for each in told]).mean() for name in told[0]}
    return total, parts
