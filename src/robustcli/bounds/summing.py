"""Sums whose rounding is known, and numbers rounded up."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gamma(roundings: int, dtype: torch.dtype) -> float:
    """n u / (1 - n u): what n roundings change at most, as a share (Higham, Accuracy and Stability, section 3.1)."""
    lost = roundings * torch.finfo(dtype).eps / 2
    return lost / (1 - lost) if lost < 1 else math.inf


def total(values: Tensor) -> Tensor:
    """Sums over all dimensions but the first, [n], in two steps: `additions` roundings instead of one an entry."""
    flat = values.flatten(1) if values.stride(1) != 1 else values.movedim(1, -1).flatten(1)
    side = _side(flat.shape[1])
    return flat.unflatten(1, (side, flat.shape[1] // side)).sum(2).sum(1)


def additions(count: int) -> int:
    """Roundings in one of `total`'s sums of `count` numbers, at most."""
    side = _side(count)
    return side + count // side


def _side(count: int) -> int:
    """The largest divisor up to the square root."""
    return next((side for side in range(math.isqrt(count), 1, -1) if count % side == 0), 1)


def upward(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values or, in another precision, none smaller."""
    if dtype == values.dtype:
        return values
    number = torch.finfo(dtype)
    return (values + number.eps * values.abs() + number.tiny).to(dtype)
