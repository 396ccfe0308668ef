"""The exact polish of an attack: the nearest misclassified point of its linear piece, then of pieces beyond the faces
that hold it back, as long as that helps."""

from __future__ import annotations

import math

import numpy as np
import torch

from robustcli.regions.affine import Region
from robustcli.regions.cuts import nearest
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.pieces import Piece

TURNS = 3  # faces that are crossed, one at a time, from every improved point


@torch.no_grad()
def polish(first: Piece, known: Incumbent, steps: int) -> None:
    """Bring the point known nearer.

    Args:
        first: the piece of x, for the sizes of rows.
        known: improved in place.
        steps: pieces to look at, at most.
    """
    if not math.isfinite(known.distance):
        return
    masks = Region.of(known.network, known.point.unsqueeze(0)).masks
    start = Piece(known.network, tuple(masks), first.point, first.label, first.q, first.norms, first.memory)
    waiting, seen = [start], {_bits(start)}
    for _ in range(steps):
        if not waiting:
            return
        piece = waiting.pop(0)
        improved, tight = _improve(piece, known)
        if improved or piece is start:
            beyond = [piece.flipped(unit, certified=False) for unit in tight[:TURNS]]
            fresh = [other for other in beyond if _bits(other) not in seen]
            seen.update(map(_bits, fresh))
            waiting = fresh + ([] if improved else waiting)


def _improve(piece: Piece, known: Incumbent) -> tuple[bool, list[int]]:
    """Offer the nearest misclassified point of a piece; also the units that hold it back."""
    logits = known.network(known.point.unsqueeze(0))[0]
    others = torch.arange(len(logits), device=logits.device) != known.label
    target = int(logits[others].argmax())
    found = nearest(piece, known.p, known.box, target, known.distance)
    if found.move is None:
        return False, []
    improved = known.offer(found.move, "polish") or known.offer_behind(piece, target, "polish", found.used)
    return improved, found.tight


def _bits(piece: Piece) -> bytes:
    return np.packbits(piece.signs > 0).tobytes()
