"""The l_p ball cut with the input box: linear optimisation over it, projection onto it, membership, sampling.

    B = { z : ||z - center||_p <= eps,  lower <= z <= upper }

The minimum of a linear functional over B is the one fact about the ball that every bound needs. Cut with the box it is
a clip for p = inf, a fractional knapsack for p = 1 and a one-dimensional dual for p = 2. The values are computed in
their *dual* form, so that an inexact multiplier makes them looser, never wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustcli.boxes import Box, clipped, converted, named, within
from robustcli.errors import UsageError
from robustcli.norms import dual

NEWTON_STEPS = 40


def vector_norm(v: Tensor, p: float) -> Tensor:
    """||v||_p over the last dimension (abs().sum() is several times faster on a CPU than vector_norm for p = 1)."""
    if p == 1:
        return v.abs().sum(-1)
    if math.isinf(p):
        return v.abs().amax(-1)
    found = torch.linalg.vector_norm(v, ord=p, dim=-1)
    # Powers of tiny or huge entries leave the number range (a norm of 0 would be a false proof): scale first then.
    number = torch.finfo(v.dtype)
    if p == 2 and bool(((found > number.tiny**0.25) & (found < number.max**0.25)).all()):
        return found
    top = v.detach().abs().amax(-1, keepdim=True)
    scale = torch.where((top > 0) & top.isfinite(), top, torch.ones_like(top)).log2().floor().exp2()
    return torch.linalg.vector_norm(v / scale, ord=p, dim=-1) * scale.squeeze(-1)


@dataclass(frozen=True)
class Ball:
    """A batch of l_p balls, one per point, each cut with the same input box.

    Args:
        center: the points, [B, *input_shape].
        eps: radii, [B].
        p: exponent >= 1 (`math.inf` for linf).
        box: around all points.
    """

    center: Tensor
    eps: Tensor
    p: float
    box: Box = None

    @classmethod
    def around(cls, points: Tensor, eps: float, p: float, box: Box) -> Ball:
        """Balls of one radius around points [B, *input_shape].

        Raises:
            UsageError: when a point lies outside the box.
        """
        if box is not None and not within(points, box).all():
            raise UsageError(f"a point lies outside the input box {named(box)}", "scale the data, or use --no-box")
        return cls(points, torch.full(points.shape[:1], eps, dtype=points.dtype, device=points.device), p, box)

    @property
    def size(self) -> int:
        """Number of points B."""
        return self.center.shape[0]

    def to(self, dtype: torch.dtype) -> Ball:
        """The same balls in another precision."""
        return Ball(self.center.to(dtype), self.eps.to(dtype), self.p, converted(self.box, dtype))

    def take(self, index: Tensor | slice) -> Ball:
        """The balls of some of the points."""
        return Ball(self.center[index], self.eps[index], self.p, self.box)

    def room(self) -> tuple[Tensor, Tensor]:
        """How far each coordinate may move down and up inside the ball, both >= 0, [B, *input_shape]."""
        eps = self.eps.view(-1, *[1] * (self.center.dim() - 1)).expand_as(self.center)
        if self.box is None:
            return eps, eps
        down, up = (side.view(eps.shape) for side in self.box_room())
        return torch.minimum(eps, down), torch.minimum(eps, up)

    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """The smallest axis-parallel box that contains the ball: lower, upper, [B, *input_shape]."""
        down, up = self.room()
        return self.center - down, self.center + up

    def middle(self) -> Tensor:
        """The point the reaches of `reaches` count from: the box's middle for p = inf (where they are then symmetric),
        else the centre; [B, *input_shape]."""
        if math.isinf(self.p):
            low, high = self.bounding_box()
            return (low + high) / 2
        return self.center

    def minimum(self, rows: Tensor) -> Tensor:
        """min over the ball of <row, z>.

        Args:
            rows: [B, R, *input_shape].
        Returns:
            [B, R].
        """
        flat = rows.flatten(2)
        down, up = (side.flatten(1).unsqueeze(1) for side in self.room())
        value = (flat * self.center.flatten(1).unsqueeze(1)).sum(-1)
        return value - reach(flat, down, up, self.eps.unsqueeze(1), self.p, self.box is not None)

    def maximum(self, rows: Tensor) -> Tensor:
        """max over the ball of <row, z>; shapes as in `minimum`."""
        return -self.minimum(-rows)

    def minimiser(self, rows: Tensor) -> Tensor:
        """A point of the ball where <row, z> is smallest, one per row.

        Args:
            rows: [B, R, *input_shape].
        Returns:
            [B, R, *input_shape].
        """
        flat = rows.flatten(2)
        down, up = (side.flatten(1).unsqueeze(1) for side in self.room())
        length = step(flat, down, up, self.eps.unsqueeze(1), self.p, self.box is not None)
        moved = self.center.flatten(1).unsqueeze(1) - flat.sign() * length
        return moved.view(rows.shape)

    def distance(self, points: Tensor) -> Tensor:
        """||z - center||_p for points [B, *input_shape] -> [B]."""
        return vector_norm((points - self.center).flatten(1), self.p)

    def contains(self, points: Tensor, tolerance: float = 0.0) -> Tensor:
        """Whether each point [B, *input_shape] lies in the ball and in the box, up to `tolerance` -> [B] bool."""
        inside = self.distance(points) <= self.eps + tolerance
        return inside if self.box is None else inside & within(points, self.box, tolerance)

    def project(self, points: Tensor) -> Tensor:
        """The Euclidean projection of points [B, *input_shape] onto ball and box together.

        p = inf: clip. p = 2: shrink by 1/(1+m), then clip. p = 1: soft-threshold by m, then clip. The multiplier m is
        found by bisection and its feasible end is taken, so the result never leaves the ball.
        """
        down, up = self.box_room()
        delta = (points - self.center).flatten(1)
        if math.isinf(self.p):
            eps = self.eps.unsqueeze(1)
            moved = torch.minimum(torch.maximum(delta, -torch.minimum(eps, down)), torch.minimum(eps, up))
        else:
            moved = self._project_delta(delta, down, up)
        return clipped(self.center.flatten(1) + moved, self.box).view(points.shape)

    def _project_delta(self, delta: Tensor, down: Tensor, up: Tensor) -> Tensor:
        eps = self.eps.unsqueeze(1)

        def shrunk(m: Tensor) -> Tensor:
            if self.p == 1:
                inner = delta.sign() * (delta.abs() - m).clamp(min=0)
            elif self.p == 2:
                inner = delta / (1 + m)
            else:
                raise UsageError(f"no projection onto the l{self.p:g} ball", "attacks know l1, l2 and linf")
            return torch.minimum(torch.maximum(inner, -down), up)

        def outside(m: Tensor) -> Tensor:
            return vector_norm(shrunk(m), self.p).unsqueeze(1) > eps

        low = torch.zeros_like(eps)
        if self.p == 1:
            high = delta.abs().amax(1, keepdim=True)
        else:
            high = (vector_norm(delta, 2.0).unsqueeze(1) / eps).clamp(min=1)
        todo = outside(low)
        for _ in range(60):
            middle = (low + high) / 2
            above = outside(middle)
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return torch.where(todo, shrunk(high), shrunk(torch.zeros_like(eps)))

    def box_room(self) -> tuple[Tensor, Tensor]:
        """Room left by the box alone (inf without one), flattened: down, up, [B, d]."""
        flat = self.center.flatten(1)
        if self.box is None:
            wide = torch.full_like(flat, math.inf)
            return wide, wide
        return flat - self.box[0], self.box[1] - flat

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Random points of the ball, half of them near its surface: [B, count, *input_shape].

        Not uniform: directions are drawn at every sparsity, radii with a bias towards eps, then projected.
        """
        b, d = self.size, self.center[0].numel()
        kind: dict[str, Any] = {"generator": generator, "dtype": self.center.dtype, "device": self.center.device}
        direction = torch.randn(b * count, d, **kind)
        keep = torch.rand(b * count, 1, **kind) ** 3
        direction = direction * (torch.rand(b * count, d, **kind) <= keep.clamp(min=1.0 / d))
        if math.isinf(self.p):
            direction = torch.where(torch.rand(b * count, 1, **kind) < 0.5, direction.sign(), direction)
        radius = torch.rand(b * count, 1, **kind).clamp(min=0.5) * 1.5
        scale = vector_norm(direction, self.p).clamp(min=1e-30).unsqueeze(1)
        many = Ball(self.center.repeat_interleave(count, 0), self.eps.repeat_interleave(count, 0), self.p, self.box)
        moved = many.center.flatten(1) + direction / scale * radius * many.eps.unsqueeze(1)
        return many.project(moved.view(many.center.shape)).view(b, count, *self.center.shape[1:])


def reach(rows: Tensor, down: Tensor, up: Tensor, eps: Tensor, p: float, boxed: bool) -> Tensor:
    """How far <row, z> can fall below <row, center> inside the ball: the (box-aware) dual norm, >= 0.

    Args:
        rows: [..., d].
        down, up: room of each coordinate, already at most eps, broadcastable to `rows`.
        eps: radius, broadcastable to `rows` without its last dimension.
        p: exponent; 1, 2 and inf know the box, any other p >= 1 only without one.
        boxed: False takes the plain dual norm eps ||row||_q.
    Returns:
        [...].
    """
    if rows.shape[-1] == 0:
        return rows.sum(-1)  # no coordinate can move
    if not boxed:
        return eps * vector_norm(rows, dual(p))
    weight, cap = rows.abs(), torch.where(rows > 0, down, up)
    if math.isinf(p):
        return (weight * cap).sum(-1)
    if p == 1:
        # Lagrangian of the knapsack: for every m >= 0, eps m + sum cap (weight - m)_+ bounds the reach from above.
        m = _knapsack_multiplier(weight, cap, eps)
        return eps * m + (cap * (weight - m.unsqueeze(-1)).clamp(min=0)).sum(-1)
    if p == 2:
        # For every split weight = v + (weight - v), v >= 0: reach <= sum cap v + eps ||weight - v||_2.
        kept = torch.minimum(weight, _cap_multiplier(weight, cap, eps).unsqueeze(-1) * cap)
        return (cap * (weight - kept)).sum(-1) + eps * vector_norm(kept, 2.0)
    raise UsageError(f"no box-aware bound for the l{p:g} ball", "use --no-box, or one of l1, l2, linf")


def step(rows: Tensor, down: Tensor, up: Tensor, eps: Tensor, p: float, boxed: bool) -> Tensor:
    """The lengths |delta_i| of a move inside the ball that lowers <row, z> the most; arguments as in `reach`."""
    weight = rows.abs()
    if rows.shape[-1] == 0:
        return weight  # no coordinate can move
    if math.isinf(p):
        return torch.where(rows > 0, down, up) * (weight > 0)
    if p == 1:
        cap = torch.where(rows > 0, down, up).expand_as(weight)
        order = weight.argsort(dim=-1, descending=True)
        filled = cap.gather(-1, order)
        before = filled.cumsum(-1) - filled
        used = torch.minimum(filled, (eps.unsqueeze(-1) - before).clamp(min=0))
        return torch.zeros_like(weight).scatter(-1, order, used) * (weight > 0)
    if p == 2:
        eps = eps.clamp(min=torch.finfo(eps.dtype).tiny)  # 0 / 0 is no move of a ball of one point
        cap = torch.where(rows > 0, down, up) if boxed else torch.full_like(weight, math.inf)
        m = _cap_multiplier(weight, cap, eps) if boxed else vector_norm(weight, 2.0) / eps
        length = torch.minimum(weight / m.clamp(min=torch.finfo(m.dtype).tiny).unsqueeze(-1), cap) * (weight > 0)
        over = (torch.linalg.vector_norm(length, dim=-1) / eps).clamp(min=1)
        return length / over.unsqueeze(-1)
    raise UsageError(f"no maximiser for the l{p:g} ball", "use l1, l2 or linf")


def _knapsack_multiplier(weight: Tensor, cap: Tensor, eps: Tensor) -> Tensor:
    """The weight of the coordinate at which the l1 budget is spent (0 when the box is smaller than the budget)."""
    order = weight.argsort(dim=-1, descending=True)
    spent = cap.expand_as(weight).gather(-1, order).cumsum(-1)
    first = (spent < eps.unsqueeze(-1)).sum(-1, keepdim=True)
    sorted_weight = weight.gather(-1, order)
    at = sorted_weight.gather(-1, first.clamp(max=weight.shape[-1] - 1)).squeeze(-1)
    return torch.where(first.squeeze(-1) < weight.shape[-1], at, torch.zeros_like(at))


@torch.no_grad()
def _cap_multiplier(weight: Tensor, cap: Tensor, eps: Tensor) -> Tensor:
    """m >= 0 with || min(weight / m, cap) ||_2 = eps (0 when even the caps stay inside the ball).

    Newton on the set of coordinates at their cap, starting from none: m decreases monotonically to the root. Its
    gradient is not needed: the reach is stationary in m (envelope theorem).
    """
    square, cap_square = weight * weight, (cap * cap).expand_as(weight)
    all_caps = cap_square.sum(-1)
    m = square.sum(-1).sqrt() / eps.clamp(min=torch.finfo(weight.dtype).tiny)
    for _ in range(NEWTON_STEPS):
        free = (weight <= m.unsqueeze(-1) * cap).to(torch.uint8)  # times bytes: five times faster than a selection
        left = eps * eps - (all_caps - (cap_square * free).sum(-1))
        update = torch.where(
            left > 0, ((square * free).sum(-1) / left.clamp(min=torch.finfo(m.dtype).tiny)).sqrt(), torch.zeros_like(m)
        )
        update = torch.minimum(update, m)
        if torch.allclose(update, m, rtol=1e-12, atol=0):
            break
        m = update
    return m
