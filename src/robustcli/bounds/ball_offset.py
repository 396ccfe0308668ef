"""SDP-CROWN (Chiu, Chen, Zhang and Zhang 2025) for l2 balls, its ball and the bounds of the units together.

Over an l2 ball the pre-activations z of a layer stay in a ball of their own, || z - c ||_2 <= rho, which knows what the
bounds [l_i, u_i] one by one do not: that the units cannot all move at once. For any rows A and G and any lambda >= 0,

    A relu(z)  >=  G z + h,
    h  =  sum_i  min over [l_i, u_i] of { A_i relu(z) - G_i z + lambda/2 (z - c_i)^2 }  -  lambda/2 rho^2

by weak duality, the sum over unstable units (at the others G_i is A_i or 0 and nothing is lost). lambda = 0 are CROWN's
intercepts, l = -inf and u = inf the paper's theorem 4.1; the best lambda is never worse than either. Each term is the
smaller of two parabolas, on [l, 0] and [0, u], with their vertices c + G/lambda and c - (A - G)/lambda clipped.

Here G = slope A with slopes in [0, 1] at unstable units, whatever the sign of A; slopes and one lambda a layer belong
to each row and are searched for together (`layered`). Hidden bounds are cut with c +- rho.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.alpha import seen
from robustcli.bounds.backward import lowest
from robustcli.bounds.crown import crown
from robustcli.bounds.layered import Effort, raised
from robustcli.bounds.relaxation import adaptive, parallel
from robustcli.bounds.sizes import Shifted, Sizes
from robustcli.bounds.spectral import Around
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.errors import UsageError
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows


@torch.no_grad()
def ball_offset(
    network: Network,
    ball: Ball,
    rows: Tensor,
    *,
    known: Sequence[Bounds] | None = None,
    outward: bool = True,
    effort: Effort | None = None,
) -> MarginBounds:
    """SDP-CROWN bounds over l2 balls, with the box of the units; never looser than CROWN or `known`.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls with p = 2, boxed or not.
        rows: functionals of the logits, [B, T, K].
        known: sound bounds on the hidden layers for the same balls.
        outward: widen every bound by the rounding error.
        effort: how hard to search.
    Returns:
        margins [B, T] (without gradients) and the hidden bounds.
    Raises:
        UsageError: for other balls than l2.
    """
    if ball.p != 2:
        raise UsageError(f"the ball offset bounds l2 balls, not l{ball.p:g} balls", "use alpha")
    start = crown(network, ball, rows, known=known, outward=outward)
    if not start.layers:
        return start
    around = Around.of(network, ball)

    def relaxation(ball: Ball, images: slice) -> Offsets:
        return Offsets(around.take(images))

    return raised(network, ball, rows, start, relaxation, effort or Effort(), outward)


@dataclass(frozen=True)
class Offsets:
    """ReLUs with free slopes and multipliers, in the balls around their pre-activations (`layered.Relaxation`)."""

    around: Around

    def free(self, layers: Sequence[Bounds]) -> FreeOffsets:
        return FreeOffsets(layers, self.around.float())

    def lowest(
        self,
        numbers: Sequence[Tensor],
        rows: Rows,
        blocks: Sequence[Block],
        layers: Sequence[Bounds],
        ball: Ball,
        sizes: Sizes | None,
    ) -> Tensor:
        multipliers = [share * unit for share, unit in zip(numbers[-2::-3], numbers[-1::-3], strict=True)]
        found = PerRow(layers, self.around, numbers[-3::-3], multipliers, sizes is not None)
        bound = lowest(rows, blocks, found, ball, sizes)
        offsets = torch.stack(found.offsets)
        unit = torch.finfo(bound.dtype).eps * len(blocks) if sizes is not None else 0.0
        return bound + offsets.sum(0) - unit * (bound.abs() + offsets.abs().sum(0))

    def own(self, layers: Sequence[Bounds], known: Bounds) -> Bounds:
        bounds = self.around.bounds(len(layers))  # fmax: what is not a number proves nothing
        return Bounds(torch.fmax(known.lower, bounds.lower), torch.fmin(known.upper, bounds.upper))


@dataclass(frozen=True)
class PerRow:
    """Slopes and multipliers of the rows as lines through zero, what is lost beside them (`backward.Slopes`).

    Args:
        layers: bounds of every hidden layer.
        around: the balls around them.
        slopes: like the values of the rows at each layer, 0 except at unstable units.
        multipliers: lambda >= 0, [n] a layer.
        outward: lower the offsets by their rounding error.
        offsets: h of the rows at each layer passed, [n], filled by the pass.
    """

    layers: Sequence[Bounds]
    around: Around
    slopes: Sequence[Tensor]
    multipliers: Sequence[Tensor]
    outward: bool
    offsets: list[Tensor] = field(default_factory=list)

    def at(self, layer: int, rows: Rows, sizes: Sizes) -> Shifted:
        bounds, center = self.layers[layer], self.around.centers[layer]
        open_units = bounds.unstable.to(center.dtype)
        low, high, middle = (rows.gather(open_units * each) for each in (bounds.lower, bounds.upper, center))
        slope = rows.gather(bounds.active.to(center.dtype)) + self.slopes[layer].to(center.dtype)
        tilted = rows.values * slope
        multiplier = self.multipliers[layer].to(center.dtype)
        radius = self.around.radii[layer].index_select(0, rows.image)
        offset, _ = offsets(rows.values, tilted, multiplier, low, high, middle, radius)
        if self.outward:
            offset = offset - rounding(rows.values, tilted, multiplier, low, high, middle, radius)
        self.offsets.append(offset)
        return sizes.seen(layer, rows, slope, slope, torch.zeros((), dtype=center.dtype, device=center.device))


def offsets(
    rows: Tensor, tilted: Tensor, multiplier: Tensor, low: Tensor, high: Tensor, center: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor]:
    """h of the module's formula, and the z where its terms are smallest.

    Args:
        rows, tilted: A and G, [n, ...].
        multiplier: lambda >= 0, [n].
        low, high, center: l, u and c like A, or broadcastable, all 0 at units that are not unstable.
        radius: rho, [n].
    Returns:
        h [n] and z like A.
    """
    weight = multiplier.view(-1, *[1] * (rows.dim() - 1))
    curve = weight.clamp(min=torch.finfo(weight.dtype).tiny)  # lambda = 0: the vertex lies at an end
    zero = torch.zeros((), dtype=rows.dtype, device=rows.device)
    off = torch.minimum(torch.maximum(center + tilted / curve, low), zero)
    on = torch.maximum(torch.minimum(center - (rows - tilted) / curve, high), zero)
    when_off = weight / 2 * (off - center).square() - tilted * off
    when_on = weight / 2 * (on - center).square() + (rows - tilted) * on
    found = torch.minimum(when_off, when_on).flatten(1).sum(1) - multiplier / 2 * radius.square()
    return found, torch.where(when_on < when_off, on, off)


def rounding(
    rows: Tensor, tilted: Tensor, multiplier: Tensor, low: Tensor, high: Tensor, center: Tensor, radius: Tensor
) -> Tensor:
    """How far `offsets` may lie above h in floating point, [n]; arguments as there.

    Each term has less than 16 roundings of numbers below |A| |z| + |G| |z| + lambda/2 (|z| + |c|)^2. A vertex is off by
    some u (|z| + |c|), which raises its parabola by the square of that times lambda: far below one more rounding.
    """
    size = torch.maximum(-low, high)
    weight = multiplier.view(-1, *[1] * (rows.dim() - 1))
    sizes = (rows.abs() + tilted.abs()) * size + weight / 2 * (size + center.abs()).square()
    roundings = 2 * (math.prod(rows.shape[1:]) + 32)
    unit, tiny = torch.finfo(rows.dtype).eps / 2, torch.finfo(rows.dtype).tiny
    return roundings * (unit * (sizes.flatten(1).sum(1) + multiplier / 2 * radius.square()) + tiny)


class FreeOffsets:
    """A slope for every row and unstable unit, and a multiplier for every row and layer (`optimiser.Free`).

    Slopes start at CROWN's lower line where A >= 0 and at the upper line elsewhere, lambda where the ball alone would
    have its best if it stood around zero: || min(A - G, G, 0) ||_2 / rho. It is searched for in units of that, which
    ride along as numbers of their own, so that steps fit rows of any size and zero is in reach.
    """

    def __init__(self, layers: Sequence[Bounds], around: Around) -> None:
        self._layers = layers
        self._around = around
        self._numbers: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._seen: dict[int, tuple[Tensor, ...]] = {}

    def relax(self, layer: int, rows: Rows) -> tuple[Rows, Tensor]:
        bounds, radius = self._layers[layer], self._around.radii[layer].index_select(0, rows.image)
        if layer not in self._seen:
            unstable = bounds.unstable.to(radius.dtype)
            maps = (bounds.active.to(radius.dtype), bounds.lower * unstable, bounds.upper * unstable)
            self._seen[layer] = seen(rows, *maps, self._around.centers[layer] * unstable, unstable)
        stable, low, high, center, _ = self._seen[layer]
        if layer not in self._numbers:
            self._numbers[layer] = self._start(bounds, rows, radius)
        values, offset = _Offset.apply(rows.values, *self._numbers[layer], stable, low, high, center, radius)
        return replace(rows, values=values), offset

    def _start(self, bounds: Bounds, rows: Rows, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = rows.values.detach()
        lower, upper = (rows.gather(rule(bounds) * bounds.unstable) for rule in (adaptive, parallel))
        slopes = torch.where(values >= 0, lower, upper)
        tilted = values * slopes
        lost = torch.minimum(values * (slopes > 0) - tilted, tilted).clamp(max=0).flatten(1).norm(dim=1)
        unit = lost / radius.clamp(min=torch.finfo(radius.dtype).tiny)
        return slopes.requires_grad_(True), torch.ones_like(unit, requires_grad=True), unit.requires_grad_(True)

    def numbers(self) -> list[Tensor]:
        return [number for numbers in self._numbers.values() for number in numbers]

    def project(self) -> None:
        for layer, (slopes, share, _) in self._numbers.items():
            torch.minimum(slopes.clamp_(min=0), self._seen[layer][-1], out=slopes)
            share.clamp_(min=0)

    def keep(self, index: Tensor) -> None:
        self._seen = {}
        for layer, (slopes, share, unit) in self._numbers.items():
            slopes, share, unit = (each.detach().index_select(0, index) for each in (slopes, share, unit))
            self._numbers[layer] = slopes.requires_grad_(True), share.requires_grad_(True), unit.requires_grad_(True)


class _Offset(torch.autograd.Function):
    """G = slope A and h; the gradient of h at the z where its terms are smallest (envelope)."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        slopes: Tensor,
        share: Tensor,
        unit: Tensor,
        stable: Tensor,
        low: Tensor,
        high: Tensor,
        center: Tensor,
        radius: Tensor,
    ) -> Any:
        slope, multiplier = stable + slopes, share * unit
        tilted = slope * rows
        found, z = offsets(rows, tilted, multiplier, low, high, center, radius)
        ctx.save_for_backward(rows, slope, unit, z, center, radius)
        return tilted, found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, slope, unit, z, center, radius = ctx.saved_tensors
        below, weight = gradients
        wide = weight.view(-1, *[1] * (rows.dim() - 1))
        to_tilted = below - wide * z
        to_multiplier = weight / 2 * ((z - center).square().flatten(1).sum(1) - radius.square())
        to_rows = (slope * to_tilted).addcmul_(wide, z.clamp(min=0)) if ctx.needs_input_grad[0] else None
        return to_rows, rows * to_tilted, to_multiplier * unit, torch.zeros_like(unit), *[None] * 5
