"""Points of the zonotope behind the first k ReLUs (002, appendix A), as a relaxed network makes them of error terms:

    C_k = { v_k :  v_0 = m + h e_0,   v_i = lambda_i W_i v_{i-1} + mu_i (1 + e_i),   every e in [-1, 1] }

with m and h the middle and the half widths of the l_inf ball cut with the input box, and around every ReLU the band
lambda z <= relu(z) <= lambda z + 2 mu of smallest area: lambda = u / (u - l), mu = -l u / (2 (u - l)) where l < 0 < u,
the ReLU itself and mu = 0 elsewhere.

C_k = a_k + A_k [-1, 1]^n with an A_k that is never built: A_k e is one pass forward, A_k^T g one pass back. Every unit
has an error term; those of stable units move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import Relaxation, parallelogram
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Block, Network


@dataclass(frozen=True)
class Region:
    """The zonotopes of a batch.

    Args:
        middle, half: of the balls, [B, *input_shape].
        blocks: the k affine maps below.
        relaxations: of the k ReLUs.
    """

    middle: Tensor
    half: Tensor
    blocks: Sequence[Block]
    relaxations: Sequence[Relaxation]

    @classmethod
    def of(cls, network: Network, ball: Ball, layers: Sequence[Bounds]) -> Region:
        """The zonotopes behind as many ReLUs as there are bounds, which get no gradient.

        Args:
            ball: p = inf.
            layers: bounds of the hidden layers below; no zonotope holds more than they do.
        """
        middle, half = input_box(ball)
        return cls(middle, half, network.blocks[: len(layers)], [_relaxed(bounds) for bounds in layers])

    @property
    def depth(self) -> int:
        """k."""
        return len(self.relaxations)

    def errors(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """Random error terms, uniform in [-1, 1]: [B, *input_shape] and one [B, *shape] a ReLU."""
        like = [self.middle, *(relaxation.slope for relaxation in self.relaxations)]
        return [
            torch.empty(values.shape, dtype=values.dtype, device=values.device).uniform_(-1, 1, generator=generator)
            for values in like
        ]

    def point(self, errors: Sequence[Tensor]) -> Tensor:
        """v_k for given error terms, [B, *shape behind ReLU k]."""
        values = self.middle + self.half * errors[0]
        for block, relaxation, error in zip(self.blocks, self.relaxations, errors[1:], strict=True):
            values = relaxation.slope * block(values) + relaxation.gap / 2 * (1 + error)
        return values


def _relaxed(bounds: Bounds) -> Relaxation:
    return parallelogram(Bounds(bounds.lower.detach(), bounds.upper.detach()))


def input_box(ball: Ball) -> tuple[Tensor, Tensor]:
    """Middle and half widths of l_inf balls cut with the input box, [B, *input_shape] each."""
    low, high = ball.bounding_box()
    return (low + high) / 2, (high - low) / 2


def above(network: Network, depth: int, values: Tensor) -> Tensor:
    """Logits from the values behind ReLU `depth` (0: the input): [B, *shape] -> [B, K]."""
    first, *others = network.blocks[depth:]
    values = first(values)
    for block in others:
        values = block(values.relu())
    return values
