"""The questions of the planted suite: every construction, every kind of ball."""

from __future__ import annotations

import math
from functools import cache

from tests.soundness.bumps import FRONTS, PROFILES, bump
from tests.soundness.drawn import MAKERS, drawn
from tests.soundness.planted import Box, Planted

BOX = (0.0, 1.0)
BALLS: list[tuple[float, Box]] = [(p, box) for p in (1.0, 2.0, math.inf) for box in (None, BOX)]
OTHERS: list[tuple[float, Box]] = [(1.5, None), (3.0, None)]
"""Norms that only bounds know, and only without the box."""
COUNT = 8
JUST_OUTSIDE, JUST_INSIDE = 1 + 1e-6, 1 - 1e-4
"""Radii, in distances of the planted inputs."""
SHARES = 8
"""Stages that search are asked every eighth question, all of them together every one; the long tests ask the rest."""


@cache
def questions(p: float, box: Box) -> list[Planted]:
    """All networks with their points for one kind of ball."""
    bumps = [(front, profile) for front in FRONTS for profile in PROFILES]
    made = [bump(*kind, p, box, COUNT // 2, seed) for seed, kind in enumerate(bumps)]
    found = [drawn(name, p, box, COUNT, seed) for seed, name in enumerate(MAKERS)]
    return made + [each for each in found if each is not None]


def asked(p: float, box: Box, part: int | None) -> list[Planted]:
    """The questions of one part of SHARES; None: all."""
    if part is None:
        return questions(p, box)
    chosen = []
    for place, each in enumerate(questions(p, box)):
        index = [row for row in range(len(each)) if (3 * row + place + part) % SHARES == 0]
        if index:
            chosen.append(each.take(index))
    return chosen
