"""Batches of domains: what is fixed in them, what is proved, where their ascent stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Domains:
    """D domains.

    Args:
        targets: which margin, [D].
        signs: S, [D, n] int8: -1 for z >= 0, +1 for z <= 0, 0 for open.
        theta: slopes at open neurons, multipliers at fixed ones, [D, n] float32.
        proved: lower bounds of the margins, [D] float64.
        depth: splits behind each, [D].
    """

    targets: Tensor
    signs: Tensor
    theta: Tensor
    proved: Tensor
    depth: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    def roots(cls, targets: Tensor, slopes: Tensor, proved: Tensor, signs: Tensor | None = None) -> Domains:
        """The whole ball, once for each margin; or the domain that signs [R, n] describe.

        Args:
            targets: which margins, [R].
            slopes: where to start, [R, n].
            proved: bounds known, [R].
        """
        return cls(
            targets=targets,
            signs=torch.zeros_like(slopes, dtype=torch.int8) if signs is None else signs,
            theta=slopes.to(torch.float32),
            proved=proved,
            depth=torch.zeros_like(targets),
        )

    @classmethod
    def joined(cls, parts: Sequence[Domains]) -> Domains:
        """Several batches as one."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, index: Tensor | slice) -> Domains:
        """Some of the domains."""
        return Domains(*(getattr(self, field.name)[index] for field in fields(self)))

    def split(self, units: Tensor) -> Domains:
        """Both halves of each domain along one open neuron, [D]: first all with z >= 0, then all with z <= 0."""
        every = torch.arange(len(self), device=units.device)
        theta = self.theta.clone()
        theta[every, units] = 0.0
        halves = []
        for sign in (-1, 1):
            signs = self.signs.clone()
            signs[every, units] = sign
            halves.append(replace(self, signs=signs, theta=theta, depth=self.depth + 1))
        return Domains.joined(halves)
