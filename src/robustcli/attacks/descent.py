"""Descent over linear pieces at a fixed radius: on each piece the lowest margin within the ball, exactly.

On a piece the margin f_y - f_t is affine, so its minimum over piece, ball and box is a convex program: a linear one for
l1 and linf (`regions.lowest`). For l2 it is found from the nearest point where f_y - f_t <= v (`regions.cuts`), whose
distance falls as v grows: first v = 0, and where the ball has no such point, v is bisected between 0 and the margin
known. The faces that hold the minimum back are then crossed. Where gradient steps jump from side to side of a crease,
this walks along it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task, lowest_margin
from robustcli.attacks.improving import incumbent, piece_at
from robustcli.attacks.pace import adaptive
from robustcli.attacks.search import Aim, descend
from robustcli.attacks.settings_regions import DescentSettings
from robustcli.attacks.training import evaluating
from robustcli.networks.network import margins
from robustcli.regions.affine import Region
from robustcli.regions.cuts import nearest
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.lowest import Lowest, lowest
from robustcli.regions.pieces import Piece

BISECTIONS = 5
"""Of the margin on one piece."""

TURNS = 3
"""Faces that are crossed, one at a time, from every improved point."""

INSIDE = 1e-7
"""The radius aimed at is this much smaller, relatively, than the ball's."""


def descent(task: Task, settings: DescentSettings) -> Found:
    """Lower the margin from the best point known until another class wins (goal: a fixed radius; l1, l2, linf).

    Args:
        task: starts from `near`, moved into the ball; where that is the centre, from where a search leads.
        settings: pieces to look at, and steps of that search.
    """
    with evaluating(task.network):
        start = _starts(task, settings)
    points, passes = start.points.clone(), start.passes.clone()
    radius = task.ball.eps * (1 - INSIDE)
    for row in (~start.success & task.rivals.any(1) & radius.isfinite() & (radius > 0)).nonzero().flatten().tolist():
        known = incumbent(task, row, start.points[row], float(radius[row]))
        walk = _Walk(known, float(start.margins[row]), task.rivals[row])
        passes[row] += walk.run(settings.pieces)
        points[row] = known.point
    return start.or_else(task.judge(points), lowest_margin).spent(passes - start.passes)


def _starts(task: Task, settings: DescentSettings) -> Found:
    """The better of centre and `near`; a search from the centre where that is all there is."""
    found = task.nothing().or_else(task.judge(task.near), lowest_margin)
    bare = (task.near == task.ball.center).flatten(1).all(1)
    todo = (~found.success & bare & task.rivals.any(1) & task.ball.eps.isfinite()).nonzero().squeeze(1)
    for block, part in task.take(todo).blocks():
        ball = part.ball.to(part.network.dtype)
        aim = Aim(part.labels, part.rivals)
        reached = descend(part.network, ball, aim, ball.center, adaptive(ball, settings.steps), settings.steps)
        found = found.with_rows(todo[block], part.judge(reached.points).spent(reached.passes))
    return found


@dataclass
class _Walk:
    """One descent.

    Args:
        known: `point` is the best point so far; `distance` the radius, so that any misclassified point in reach is an
            improvement.
        margin: the network's at that point.
        rivals: classes aimed at, [K] bool.
    """

    known: Incumbent
    margin: float
    rivals: Tensor

    @torch.no_grad()
    def run(self, pieces: int) -> int:
        """Walk until a class wins or nothing falls any more; passes spent."""
        start = piece_at(self.known, self.known.point)
        waiting, seen, passes = [start], {start.signs.tobytes()}, 0
        for _ in range(pieces):
            if not waiting:
                break
            piece = waiting.pop(0)
            found, fell = self._lowest(piece)
            passes += len(piece.decisions) + len(piece.known) + 1
            if self.known.source != "start":
                break
            if found is not None and (fell or piece is start):
                here = replace(start, masks=tuple(self._masks()), known={})
                beyond = ([here] if fell else []) + [
                    piece.flipped(unit, certified=False) for unit in found.tight[:TURNS]
                ]
                fresh = [other for other in beyond if other.signs.tobytes() not in seen]
                seen.update(other.signs.tobytes() for other in fresh)
                waiting = fresh + ([] if fell else waiting)
        return passes

    def _masks(self) -> list[Tensor]:
        return Region.of(self.known.network, self.known.point.unsqueeze(0)).masks

    def _target(self) -> int:
        """The closest rival at the best point, as an index among the classes other than y."""
        logits = self.known.network(self.known.point.unsqueeze(0))[0].masked_fill(~self.rivals, -torch.inf)
        others = torch.arange(len(logits), device=logits.device) != self.known.label
        return int(logits[others].argmax())

    def _lowest(self, piece: Piece) -> tuple[Lowest | None, bool]:
        """The lowest point of a piece in the ball; whether the network's margin there is below the lowest known."""
        known, target = self.known, self._target()
        if known.p != 2:
            found = lowest(piece, known.p, known.box, target, known.distance)
            return found, found is not None and self._move_to(found)
        tie = nearest(piece, known.p, known.box, target, known.distance)
        if tie.move is not None:
            won = known.offer(tie.move, "tie") or known.offer_behind(piece, target, "tie", tie.used)
            there = Lowest(tie.move, tie.tight)
            return there, won or self._move_to(there)
        best, used, low, high = None, tie.used, 0.0, self.margin
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            reached = nearest(piece, known.p, known.box, target, known.distance, used, -middle)
            used = reached.used
            if reached.move is None:
                low = middle
            else:
                best, high = Lowest(reached.move, reached.tight), middle
        return best, best is not None and self._move_to(best)

    def _move_to(self, found: Lowest) -> bool:
        known = self.known
        if known.offer(found.move, "lowest"):
            return True
        point = known.center + torch.from_numpy(found.move).to(known.center).view_as(known.center)
        margin = float(margins(known.network(point), known.label))
        if not margin < self.margin * (1 - 1e-6):
            return False
        known.point, self.margin = point[0], margin
        return True
