"""Where searches start: the whole ball or a part of it, all targets or one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.bounds.relaxation import adaptive
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound.system import System


@dataclass(frozen=True)
class Beginning:
    """Where a search starts: R of the system's margins, slopes for them, [R, n] float32, and signs, [R, n] int8."""

    system: System
    targets: Tensor
    slopes: Tensor
    signs: Tensor

    @classmethod
    def plain(cls, system: System, targets: Sequence[int]) -> Beginning:
        """From the adaptive slopes."""
        slopes = adaptive(Bounds(system.lower, system.upper)).to(torch.float32)
        index = torch.tensor(targets, dtype=torch.int64, device=slopes.device)
        slopes = slopes.repeat(len(targets), 1)
        return cls(system, index, slopes, torch.zeros_like(slopes, dtype=torch.int8))
