"""Trained networks that come with this program. Imports no torch."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".safetensors"


def folder() -> Path | None:
    """The folder of shipped networks: inside an installed package, or `models/` of a checkout."""
    installed = Path(__file__).parent / "shipped"
    checkout = Path(__file__).parents[3] / "models"
    return next((path for path in (installed, checkout) if path.is_dir()), None)


def names() -> list[str]:
    """Names of the shipped networks, each that of its recipe."""
    here = folder()
    return [] if here is None else sorted(path.name.removesuffix(SUFFIX) for path in here.glob(f"*{SUFFIX}"))


def find(name: str) -> Path | None:
    """The checkpoint shipped under that name, if there is one."""
    here = folder()
    return here / f"{name}{SUFFIX}" if here is not None and name in names() else None
