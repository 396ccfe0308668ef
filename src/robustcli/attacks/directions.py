"""What differs between the norms in a gradient attack: the random start, the step, and how steps are adapted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball, vector_norm
from robustcli.errors import UnknownNameError
from robustcli.norms import NORMS, norm_name


class Direction(Protocol):
    """Steepest descent in one norm."""

    @property
    def first_step(self) -> float:
        """Length of the first adaptive step, in units of eps."""
        ...

    @property
    def momentum(self) -> float:
        """Share of the new move in an adaptive step; the rest repeats the last one (1: no memory)."""
        ...

    def step(self, gradient: Tensor, share: Tensor) -> Tensor:
        """The move of norm (at most) 1 that lowers <gradient, .>; [R, d] -> [R, d]. `share`: [R, 1], l1 only."""
        ...

    def start(self, noise: Tensor) -> Tensor:
        """Uniform numbers in (0, 1) -> a random move, mostly of norm 1; [R, d] -> [R, d]."""
        ...


@dataclass(frozen=True)
class Sign:
    """linf: every coordinate by its sign (Madry et al. 2018; 003 section 5)."""

    first_step: float = 2.0
    momentum: float = 0.75

    def step(self, gradient: Tensor, share: Tensor) -> Tensor:
        return gradient.sign()

    def start(self, noise: Tensor) -> Tensor:
        return 2 * noise - 1


@dataclass(frozen=True)
class Normalised:
    """l2: the gradient at length 1; a zero gradient gives no move instead of NaN."""

    first_step: float = 2.0
    momentum: float = 0.75

    def step(self, gradient: Tensor, share: Tensor) -> Tensor:
        return gradient / vector_norm(gradient, 2.0).clamp(min=1e-30).unsqueeze(1)

    def start(self, noise: Tensor) -> Tensor:
        return self.step(gaussian(noise), noise)


@dataclass(frozen=True)
class Sparse:
    """l1: equal moves of the coordinates with the largest gradients (Tramer & Boneh 2019, section 2; l1-APGD 2021)."""

    first_step: float = 1.0
    momentum: float = 1.0

    def step(self, gradient: Tensor, share: Tensor) -> Tensor:
        weight = gradient.abs()
        keep = (share * weight.shape[1]).long().clamp(1, weight.shape[1])
        # On a CPU the largest number of all rows is known at once, and the rest need no order.
        largest = int(keep.max()) if keep.device.type == "cpu" else weight.shape[1]
        smallest_kept = weight.topk(largest, dim=1).values.gather(1, keep.expand(len(weight), 1) - 1)
        below = torch.nextafter(smallest_kept, torch.zeros_like(smallest_kept))
        sign = gradient.sign() * (weight - below).relu_().sign_()
        return sign / sign.abs().sum(1, keepdim=True).clamp(min=1)

    def start(self, noise: Tensor) -> Tensor:
        laplace = -torch.sign(noise - 0.5) * torch.log(1 - 2 * (noise - 0.5).abs())
        return laplace / vector_norm(laplace, 1.0).clamp(min=1e-30).unsqueeze(1)


def gaussian(noise: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in (0, 1)."""
    return torch.erfinv(2 * noise - 1) * math.sqrt(2)


_DIRECTIONS: dict[float, Direction] = {1.0: Sparse(), 2.0: Normalised(), math.inf: Sign()}


def direction(p: float) -> Direction:
    """The strategy of the l_p norm.

    Raises:
        UnknownNameError: for a norm other than l1, l2, linf.
    """
    if p not in _DIRECTIONS:
        raise UnknownNameError("attack norm", norm_name(p), NORMS)
    return _DIRECTIONS[p]


def movable(gradient: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """The gradient [R, d] without the coordinates that stand at an end of the box and would be pushed out of it. For
    linf, whose projection puts each of them back by itself, all of it."""
    if ball.box is None or math.isinf(ball.p):
        return gradient
    # Arithmetic instead of masks, see `projection`: sign(x - low) is 0 at the low end, else 1.
    falling = gradient.relu()
    below, above = (x - ball.box[0]).relu_().sign_(), (ball.box[1] - x).relu_().sign_()
    return torch.addcmul(falling * below, gradient - falling, above)
