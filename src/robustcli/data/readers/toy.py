"""The points in the plane that 003 draws decision regions around (Fig. 3), with the numbers of its authors' notebook.

Uniform points of the unit square (numpy's generator, seed 3), each taken if it is farther than 0.32 from all others
in l1; labels from torch's generator, seed 1. No two are nearer than 0.20 in linf: balls of radius 0.08 do not meet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustcli.data.readers.base import Arrays, Reader
from robustcli.data.specs import Spec

POINTS = (
    (0.5507979, 0.7081478),
    (0.29090473, 0.5108276),
    (0.89294696, 0.8962931),
    (0.12558532, 0.20724288),
    (0.64914405, 0.2784873),
    (0.4404537, 0.15686774),
    (0.38797125, 0.93638366),
    (0.9716026, 0.2305842),
    (0.8509714, 0.5435943),
    (0.07362367, 0.8923932),
    (0.015100773, 0.42560473),
    (0.8109366, 0.0072921226),
)
LABELS = (1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1)


def find(folder: Path, split: str) -> list[Path] | None:
    """This file, whatever the folder."""
    return [Path(__file__)]


def rows(files: list[Path]) -> int | None:
    """Not told by any header."""
    return None


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Points [12, 2] float32, the same in both splits."""
    return np.array(POINTS, np.float32), np.array(LABELS)


READER = Reader("numbers", find, rows, read)
