"""The nearest misclassified point known of one test point.

Every candidate is judged by a float64 forward pass of the network itself, never by the affine map it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcli.attacks.verify import misclassified
from robustcli.balls import vector_norm
from robustcli.boxes import Box, clipped
from robustcli.networks.network import Network
from robustcli.regions.cuts import nearest
from robustcli.regions.pieces import Piece

Array = NDArray[np.float64]

BEYOND = (0.0, 1e-9, 1e-8, 1e-7, 1e-6)
"""How much farther than a tie, relatively, candidates are tried: a tie itself is no success."""
BEHIND = (1e-9, 1e-7, 1e-5)
"""How far behind the decision hyperplane the nearest point of a piece is asked for, relative to the largest logit."""


@dataclass
class Incumbent:
    """The nearest misclassified point known.

    Args:
        network: float64.
        center: the test point x, [1, *input_shape].
        label: its class, [1].
        p: exponent of the norm.
        box: input box, or None.
        point: the point known, [*input_shape]; x itself for none.
        distance: its distance, inf for none.
        source: what found it.
    """

    network: Network
    center: Tensor
    label: Tensor
    p: float
    box: Box
    point: Tensor
    distance: float = math.inf
    source: str = "none"

    def take(self, point: Tensor, distance: float, source: str) -> bool:
        """Take a misclassified point [*input_shape], judged already, if it is nearer than the one known."""
        nearer = distance < self.distance
        if nearer:
            self.point, self.distance, self.source = point, distance, source
        return nearer

    @torch.no_grad()
    def offer(self, move: Array, source: str) -> bool:
        """Take the nearest misclassified point just beyond x + move [d], if it is nearer than the one known."""
        stretch = 1 + torch.tensor(BEYOND, dtype=torch.float64, device=self.center.device).unsqueeze(1)
        x = self.center.flatten(1)
        candidates = clipped(x + stretch * torch.from_numpy(move).to(x), self.box)
        distances = vector_norm(candidates - x, self.p)
        points = candidates.view(-1, *self.center.shape[1:])
        wrong = misclassified(self.network, points, self.label.expand(len(points)))
        good = wrong & (distances < self.distance)
        if not bool(good.any()):
            return False
        best = int(torch.where(good, distances, math.inf).argmin())
        self.point, self.distance = candidates[best].view_as(self.point), float(distances[best])
        self.source = source
        return True

    def offer_behind(self, piece: Piece, target: int, source: str, start: Sequence[int] = ()) -> bool:
        """Offer the nearest point of a piece where the target wins by a little more than rounding: the nearest tie
        itself may lie on a face beyond which the class wins again."""
        largest = float(piece.region.values[-1].abs().max())
        for behind in BEHIND:
            found = nearest(piece, self.p, self.box, target, self.distance, start, behind * largest)
            if found.move is None:
                return False
            if self.offer(found.move, source):
                return True
        return False
