"""What the minimal-norm attacks share: runs in blocks, the nearest success of each row, one look at the network.

    closest(task, runs, search)    `runs` runs a point, each pulled back to the border and judged; the nearest counts
    Sight.of(block).look(x)        margin, verdict and gradient: one forward and one backward pass
    Kept                           the nearest success of each row so far

Rows work with the move x - centre, flattened: [R, d], in the precision of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustcli.attacks.contract import Found, Task, shortest
from robustcli.attacks.directions import direction, gaussian
from robustcli.attacks.losses import cross_entropy, margin
from robustcli.attacks.noise import uniform
from robustcli.attacks.search import CLEAR, padded
from robustcli.attacks.segment import STEPS, pulled
from robustcli.attacks.training import evaluating
from robustcli.balls import vector_norm
from robustcli.boxes import Box, clipped, longest_side
from robustcli.errors import UnknownNameError
from robustcli.networks.gradients import InputGradient
from robustcli.networks.network import Network
from robustcli.norms import dual, norm_name

LONGER = (1e-5, 1e-4, 1e-3, 1e-2)
"""Shares by which a move is lengthened that float64 finds on this side of the border."""

PULL_PASSES = STEPS + 4 + len(LONGER)
"""Forward passes that end a run: the segment's, and the judge's."""

AFRESH = 1 << 20
"""Stream of the random moves of rows without a gradient; runs count from 0."""

Search = Callable[[Task, Tensor], tuple[Tensor, Tensor]]
"""A block of R rows and the number of each row's run -> the best moves [R, d] (0: none), passes spent [R]."""


def closest(task: Task, runs: int | Tensor, search: Search, norms: tuple[float, ...]) -> Found:
    """The nearest success of all runs, per point.

    Points that are misclassified themselves, and points without a rival, take no work.

    Args:
        task: B points.
        runs: runs a point, numbered from 0; or [B], one figure a point.
        search: see `Search`.
        norms: exponents the attack knows.
    Raises:
        UnknownNameError: for another norm.
    """
    check_norm(task, norms)
    found = task.nothing()
    wanted = torch.as_tensor(runs, device=task.labels.device).expand(len(task))
    wanted = torch.where(found.success | (task.ball.eps <= 0) | ~task.rivals.any(1), 0, wanted)
    most = int(wanted.max()) if len(task) else 0
    numbers, points = (torch.arange(most, device=wanted.device).unsqueeze(1) < wanted).nonzero().unbind(1)
    with evaluating(task.network), torch.no_grad():
        for block, rows in task.take(points).blocks():
            moves, passes = search(rows, numbers[padded(block, len(rows))])
            answer = ended(rows, moves).spent(passes)
            # A block may hold several runs of one point; those of one number are of different points.
            _, lengths = numbers[block].unique_consecutive(return_counts=True)
            first = 0
            for length in lengths.tolist():
                found = _folded(found, answer, points[block[first : first + length]], first)
                first += length
    return found


def check_norm(task: Task, norms: tuple[float, ...]) -> None:
    """Refuse norms that an attack does not know.

    Raises:
        UnknownNameError: for them.
    """
    if task.ball.p not in norms:
        raise UnknownNameError("norm of this attack", norm_name(task.ball.p), [norm_name(p) for p in norms])


def _folded(found: Found, answer: Found, points: Tensor, first: int) -> Found:
    rows = slice(first, first + len(points))
    return found.with_rows(points, some(found, points).or_else(some(answer, rows), shortest))


def some(found: Found, rows: Tensor | slice) -> Found:
    """The answers of some rows."""
    return Found(
        found.points[rows], found.margins[rows], found.success[rows], found.distances[rows], found.passes[rows]
    )


def ended(task: Task, moves: Tensor) -> Found:
    """Moves [R, d] judged and pulled back to the border; what rounding leaves short of it is lengthened first."""
    moved = moves.to(torch.float64).view(task.ball.center.shape)
    found = task.judge(clipped(task.ball.center + moved, task.ball.box))
    for share in LONGER:
        longer = task.judge(clipped(task.ball.center + (1 + share) * moved, task.ball.box))
        found = found.or_else(longer, lambda some: [(~some.success).double()])
    near = pulled(task.exact, task.ball.center, task.labels, found.points, task.ball.box)
    return found.or_else(task.judge(near), shortest).spent(PULL_PASSES)


@dataclass
class Kept:
    """The nearest success of each row: its move [R, d] and length [R, 1] (inf: none yet)."""

    move: Tensor
    distance: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Kept:
        """Nothing yet, for moves like these [R, d]."""
        return cls(torch.zeros_like(like), torch.full_like(like[:, :1], torch.inf))

    def see(self, move: Tensor, distance: Tensor, wrong: Tensor) -> None:
        """Keep moves that are successes and nearer; `distance`, `wrong`: [R, 1]."""
        better = wrong & (distance < self.distance)
        self.move = torch.where(better, move, self.move)
        self.distance = torch.where(better, distance, self.distance)


class Seen(NamedTuple):
    """One look at R points.

    margin: over the rivals to be beaten, [R, 1]; wrong: misclassified, [R, 1] bool; gradient: of the margin, [R, d];
    clear: how far below 0 a margin is beyond the doubts of the network's precision, [R, 1].
    """

    margin: Tensor
    wrong: Tensor
    gradient: Tensor
    clear: Tensor


@dataclass(frozen=True)
class Sight:
    """A block of rows as the searches see it: in the precision of the network, flat.

    center: [R, d]; labels: [R]; rivals: [R, K] bool; seeds: [R]; reach: the longest move worth a thought, [R, 1]: to
    the farthest corner of the box, inf without one; limit: the smaller of it and the ball's radius, [R, 1].
    """

    network: Network
    center: Tensor
    labels: Tensor
    rivals: Tensor
    seeds: Tensor
    p: float
    box: Box
    reach: Tensor
    limit: Tensor

    @classmethod
    def of(cls, task: Task) -> Sight:
        """The rows of a block."""
        ball = task.ball.to(task.network.dtype)
        down, up = ball.box_room()
        reach = vector_norm(torch.maximum(down, up), ball.p).unsqueeze(1)
        limit = torch.minimum(reach, ball.eps.unsqueeze(1))
        flat = ball.center.flatten(1)
        return cls(task.network, flat, task.labels, task.rivals, task.seeds, ball.p, ball.box, reach, limit)

    @cached_property
    def slope(self) -> InputGradient:
        """What the network says at a point, and which way it falls."""
        return InputGradient(self.network)

    @property
    def side(self) -> float:
        """The unit of lengths: the longest side of the box, 1 without one."""
        return 1.0 if self.box is None else longest_side(self.box)

    def look(self, x: Tensor, smooth: bool = False) -> Seen:
        """One forward and one backward pass at x [R, d].

        Args:
            smooth: take the gradient of f_y - log sum exp over the rivals instead. That of the cross-entropy points the
                same way, but vanishes where the margin is large.
        """
        own, lowered = self.labels.unsqueeze(1), cross_entropy if smooth else margin
        here = self.slope(x.view(-1, *self.network.input_shape), lambda f: lowered(f, own, self.rivals))
        value = margin(here.logits, own, self.rivals) if smooth else here.values
        return self.seen(here.logits, value.nan_to_num(nan=torch.inf), here.gradient.flatten(1))

    def seen(self, logits: Tensor, margin: Tensor, gradient: Tensor) -> Seen:
        """What logits [R, K] say of a row, with the margin to be lowered and its gradient."""
        right = logits.gather(1, self.labels.unsqueeze(1))
        return Seen(margin, self._wrong(logits), gradient.nan_to_num(0, 0, 0), CLEAR * (1 + right.abs()))

    def wrong(self, x: Tensor) -> Tensor:
        """Whether x [R, d] is misclassified, [R, 1] bool: a forward pass alone."""
        return self._wrong(self.network(x.view(-1, *self.network.input_shape)))

    def _wrong(self, logits: Tensor) -> Tensor:
        own = self.labels.unsqueeze(1)
        return logits.gather(1, own) < logits.scatter(1, own, -torch.inf).amax(1, keepdim=True)

    def length(self, move: Tensor) -> Tensor:
        """||move||_p, [R, 1]."""
        return vector_norm(move, self.p).unsqueeze(1)

    def clip(self, move: Tensor) -> Tensor:
        """The move [R, d] cut off where it leaves the box."""
        if self.box is None:
            return move
        low, high = self.ends
        return torch.minimum(torch.maximum(move, low - self.center), high - self.center)

    @property
    def ends(self) -> tuple[Any, Any]:
        """Both ends of the box."""
        if self.box is None:
            return -math.inf, math.inf
        low, high = self.box
        return torch.as_tensor(low).to(self.center), torch.as_tensor(high).to(self.center)

    def estimate(self, margin: Tensor, gradient: Tensor) -> Tensor:
        """Distance at which the linearised margin reaches 0, [R, 1]."""
        return margin.abs() / vector_norm(gradient, dual(self.p)).unsqueeze(1).clamp(min=1e-12)

    def afresh(self) -> Tensor:
        """A random unit vector (l2) a row for rows whose gradient is 0, [R, d]."""
        noise = gaussian(uniform(self.seeds, AFRESH, self.center.shape[1]))
        return (noise / noise.norm(dim=1, keepdim=True)).to(self.center)

    def random_moves(self, numbers: Tensor, radius: Tensor) -> Tensor:
        """Random moves [R, d] of length about `radius` [R, 1] inside the box; none for the runs with number 0."""
        noise = uniform(self.seeds, numbers, self.center.shape[1])
        move = direction(self.p).start(noise).to(self.center) * radius
        return self.clip(torch.where(numbers.unsqueeze(1) > 0, move, 0.0))


def unit(gradient: Tensor, instead: Tensor, step: int) -> Tensor:
    """The gradient [R, d] at l2 length 1; where it is 0 the random vector `instead`, another one in every step."""
    length = vector_norm(gradient, 2.0).unsqueeze(1)
    return torch.where(length > 1e-12, gradient / length.clamp(min=1e-30), instead.roll(step, 1))


def both_passes(like: Tensor, steps: int) -> Tensor:
    """Passes of `steps` steps with one forward and one backward pass each, [R]."""
    return torch.full_like(like, 2 * steps, dtype=torch.int64)
