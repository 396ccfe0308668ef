"""Random numbers that depend on the seed and the place of their use alone, never on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def number(seed: int, *place: str | int) -> int:
    """A 63-bit number for a seed and a place such as ("order", epoch), the same on any machine."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *place: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for a seed and a place; drawing from it leaves every other generator alone."""
    return torch.Generator(device=device).manual_seed(number(seed, *place))
