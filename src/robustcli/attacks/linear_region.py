"""The Linear Region Attack (Croce, Rauber, Hein, arXiv 1903.11359; upper bounds of 000 and 001).

Around the nearest misclassified point z known, at distance u from x, random points

    z + u r^gamma d / ||d||_p,      r uniform in (0, 1),  d Gaussian, mostly tilted towards x,

lie in many linear pieces, most of them close by. On each the network is affine: the nearest point where class t wins is

    min ||z' - x||_p    such that    z' in the piece and in the box,  f_y(z') <= f_t(z'),

a quadratic program for l2, a linear one for l1 and linf. `regions.cuts` solves it by cutting planes, and stops as soon
as the multipliers prove that the piece holds nothing nearer than z. A line search along the ray through the answer
follows: the pieces on either side may let it end earlier, or be misclassified where this one ties.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.directions import gaussian
from robustcli.attacks.improving import improved
from robustcli.attacks.noise import streams, uniform
from robustcli.attacks.settings_regions import LinearRegionSettings
from robustcli.attacks.verify import misclassified
from robustcli.balls import vector_norm
from robustcli.boxes import clipped
from robustcli.regions.affine import Region
from robustcli.regions.cuts import nearest
from robustcli.regions.halfspaces import Array, halfspace_distance
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.pieces import Piece

STREAM = streams("linear region")

FACTORS = np.linspace(0.9, 1.1, 21)
"""Of the line search (001's code: 0.9 to 1.1)."""


def linear_region(task: Task, settings: LinearRegionSettings) -> Found:
    """Bring the misclassified points known nearer (goal: nearest; l1, l2, linf).

    Args:
        task: `near` is where it starts, inside the ball or not.
        settings: random points, and how they are drawn.
    """

    def improve(known: Incumbent, piece: Piece, seed: Tensor) -> int:
        return _Around(known, piece, seed, settings).run()

    return improved(task, settings.start, improve)


class _Around:
    """The random points around one misclassified point."""

    def __init__(self, known: Incumbent, piece: Piece, seed: Tensor, settings: LinearRegionSettings) -> None:
        self.known, self.first, self.seed, self.settings = known, piece, seed, settings
        self.seen: set[bytes] = set()

    @torch.no_grad()
    def run(self) -> int:
        """Look at all pieces, the first of them that of the point known itself; passes spent."""
        passes = 0
        for number in range(self.settings.regions):
            centre = self._centre(number) if number else self.known.point.unsqueeze(0)
            masks = tuple(Region.of(self.known.network, centre).masks)
            piece = replace(self.first, masks=masks, known={})
            passes += 1
            if piece.signs.tobytes() not in self.seen:
                self.seen.add(piece.signs.tobytes())
                passes += self._look(piece)
        return passes

    def _centre(self, number: int) -> Tensor:
        """A random point near the one known, inside the box, [1, *input_shape]."""
        known, settings = self.known, self.settings
        noise = uniform(self.seed, STREAM + number, known.point.numel() + 2)
        direction = _unit(gaussian(noise[:, 2:]).to(known.point.dtype), known.p)
        back = (known.center - known.point).flatten(1)
        if float(noise[0, 0]) < settings.tilted:
            direction = _unit(direction + _unit(back, known.p), known.p)
        length = known.distance * float(noise[0, 1]) ** settings.gamma
        return clipped((known.point.flatten() + length * direction).view_as(known.center), known.box)

    def _look(self, piece: Piece) -> int:
        """The nearest points of a piece where another class wins, those of the nearest hyperplanes first; the rows that
        were pulled back."""
        known = self.known
        point: Array = known.center.flatten().numpy(force=True)
        alone = [
            halfspace_distance(row, -margin, point, known.box, known.p)
            for row, margin in zip(piece.decisions, piece.margins, strict=True)
        ]
        for target in np.argsort(alone, kind="stable").tolist():
            if alone[target] >= known.distance:
                break
            found = nearest(piece, known.p, known.box, target, known.distance)
            if found.move is not None and math.isfinite(found.lower):
                if not known.offer(found.move, "linear region"):
                    known.offer_behind(piece, target, "linear region", found.used)
                self._along(found.move)
        return len(piece.decisions) + len(piece.known)

    def _along(self, move: Array) -> None:
        """The nearest misclassified point on the ray through x + move, near its end."""
        known = self.known
        x, factors = known.center.flatten(1), torch.from_numpy(FACTORS).to(known.center).unsqueeze(1)
        candidates = clipped(x + factors * torch.from_numpy(move).to(x), known.box)
        wrong = misclassified(
            known.network, candidates.view(-1, *known.center.shape[1:]), known.label.expand(len(FACTORS))
        )
        good = (wrong & (vector_norm(candidates - x, known.p) < known.distance)).nonzero()
        if len(good):
            known.offer((candidates[good[0]] - x)[0].numpy(force=True), "linear region")


def _unit(rows: Tensor, p: float) -> Tensor:
    """Rows [n, d] at length 1; a zero row stays zero."""
    return rows / vector_norm(rows, p).clamp(min=1e-30).unsqueeze(1)
