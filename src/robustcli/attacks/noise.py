"""Random starts that belong to a point: numbers derived by hashing (seed, index, run, coordinate), not drawn in turn.

A counter-based generator (SplitMix64, Steele et al. 2014, doi 10.1145/2660193.2660195) makes every number a function of
its address. So a point meets the same starts in every batch, shard and order, on every device.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The 64 bits of `value` read as torch's signed integer."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift (torch's `>>` copies the sign)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 whose outputs look independent for neighbouring inputs."""
    bits = bits + _GOLDEN
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def point_seeds(seed: int, indices: Tensor) -> Tensor:
    """One seed per point from the run's seed and the row in the stored test order: [B] integers -> [B] int64."""
    base = mix(torch.full_like(indices, seed, dtype=torch.int64))
    return mix(base ^ indices.to(torch.int64))


def streams(name: str) -> int:
    """The first of 2^20 streams that belong to an attack, so that no two attacks start from the same points."""
    return zlib.crc32(name.encode()) << 20


def uniform(seeds: Tensor, stream: Tensor | int, count: int) -> Tensor:
    """Uniform numbers in (0, 1), float64.

    Args:
        seeds: [R] int64, one per row.
        stream: [R] or one number; different streams of one seed are independent.
        count: numbers per row.
    Returns:
        [R, count].
    """
    stream = torch.as_tensor(stream, dtype=torch.int64, device=seeds.device)
    key = mix(seeds ^ mix(stream))
    counter = torch.arange(count, dtype=torch.int64, device=seeds.device)
    bits = mix(key.unsqueeze(1) + counter * _GOLDEN)
    return (_shift(bits, 11).to(torch.float64) + 0.5) * 2.0**-53
