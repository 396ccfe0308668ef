"""alpha-CROWN (Xu et al. 2021): the slopes of the lower lines optimised for each bound on its own.

Every row, of a margin and of either end of an unstable hidden unit, owns a slope in [0, 1] for each unstable unit below
it, from CROWN's slopes on (`layered` says in which order). With the hidden bounds fixed the best slopes reach the value
of the triangle LP (Salman et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.backward import lowest
from robustcli.bounds.crown import crown
from robustcli.bounds.layered import Effort, raised
from robustcli.bounds.relaxation import Lines, adaptive, lines
from robustcli.bounds.sizes import Shifted, Sizes
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows


@torch.no_grad()
def alpha(
    network: Network,
    ball: Ball,
    rows: Tensor,
    *,
    known: Sequence[Bounds] | None = None,
    outward: bool = True,
    effort: Effort | None = None,
) -> MarginBounds:
    """alpha-CROWN bounds for the hidden layers and lower bounds on rows @ logits; never looser than CROWN or `known`.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls, any p, boxed or not (p other than 1, 2 and inf: not boxed).
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        known: sound bounds on the hidden layers for the same balls.
        outward: widen every bound by the rounding error.
        effort: how hard to search.
    Returns:
        margins [B, T] (without gradients) and the hidden bounds.
    """
    start = crown(network, ball, rows, known=known, outward=outward)
    if not start.layers:
        return start
    return raised(network, ball, rows, start, lambda ball, images: Slopes(), effort or Effort(), outward)


class Slopes:
    """The ReLU between two lines, the slope of the lower one free (`layered.Relaxation`)."""

    def free(self, layers: Sequence[Bounds]) -> FreeSlopes:
        return FreeSlopes(layers)

    def lowest(
        self,
        numbers: Sequence[Tensor],
        rows: Rows,
        blocks: Sequence[Block],
        layers: Sequence[Bounds],
        ball: Ball,
        sizes: Sizes | None,
    ) -> Tensor:
        relaxed = [lines(bounds, torch.zeros_like(bounds.lower)) for bounds in layers]
        return lowest(rows, blocks, PerRow(relaxed, numbers[::-1]), ball, sizes)

    def own(self, layers: Sequence[Bounds], known: Bounds) -> Bounds:
        return known


@dataclass(frozen=True)
class PerRow:
    """Lines whose lower slopes at unstable units belong to the rows (`backward.Slopes`).

    Args:
        lines: of every hidden layer, with lower slope 0 at unstable units.
        slopes: like the values of the rows at each layer, 0 except at unstable units.
    """

    lines: Sequence[Lines]
    slopes: Sequence[Tensor]

    def at(self, layer: int, rows: Rows, sizes: Sizes) -> Shifted:
        found = self.lines[layer]
        lower = rows.gather(found.lower) + self.slopes[layer].to(found.lower.dtype)
        return sizes.seen(layer, rows, lower, rows.gather(found.upper), rows.gather(found.gap))


class FreeSlopes:
    """A slope for every row and unstable unit, CROWN's at first (`optimiser.Free`).

    Args:
        layers: bounds of the hidden layers, for the images the rows belong to.
    """

    def __init__(self, layers: Sequence[Bounds]) -> None:
        self._layers = layers
        self._lines = [lines(bounds, torch.zeros_like(bounds.lower)) for bounds in layers]
        self._slopes: dict[int, Tensor] = {}
        self._seen: dict[int, tuple[Tensor, ...]] = {}

    def relax(self, layer: int, rows: Rows) -> tuple[Rows, Tensor]:
        bounds, found = self._layers[layer], self._lines[layer]
        if layer not in self._slopes:
            self._slopes[layer] = rows.gather(adaptive(bounds) * bounds.unstable).clone().requires_grad_(True)
        if layer not in self._seen:
            maps = (found.lower, found.upper, found.gap, bounds.unstable.to(found.lower.dtype))
            self._seen[layer] = seen(rows, *maps)
        stable, upper, gap, _ = self._seen[layer]
        values, lost = _Relaxed.apply(rows.values, self._slopes[layer], stable, upper, gap)
        return replace(rows, values=values), lost

    def numbers(self) -> list[Tensor]:
        return list(self._slopes.values())

    def project(self) -> None:
        for layer, slopes in self._slopes.items():
            torch.minimum(slopes.clamp_(min=0), self._seen[layer][-1], out=slopes)

    def keep(self, index: Tensor) -> None:
        self._seen = {}
        for layer, slopes in self._slopes.items():
            self._slopes[layer] = slopes.detach().index_select(0, index).requires_grad_(True)


def seen(rows: Rows, *maps: Tensor) -> tuple[Tensor, ...]:
    """What rows see of their images' maps, broadcast where all of them see the same."""
    if rows.window is None and len(maps[0]) == 1:
        return maps
    return tuple(rows.gather(each) for each in maps)


class _Relaxed(torch.autograd.Function):
    """B = [A]_+ (stable + slopes) + [A]_- upper and lost = sum [A]_- gap, in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slopes: Tensor, stable: Tensor, upper: Tensor, gap: Tensor) -> Any:
        ctx.save_for_backward(rows, slopes, stable, upper, gap)
        negative = rows.clamp(max=0)
        values = (rows - negative).mul_(stable + slopes).addcmul_(negative, upper)
        return values, negative.mul_(gap).flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, slopes, stable, upper, gap = ctx.saved_tensors
        below, weight = gradients
        to_slopes = rows.clamp(min=0).mul_(below)
        if not ctx.needs_input_grad[0]:  # the first layer met: its rows never change
            return None, to_slopes, None, None, None
        weight = weight.view(-1, *[1] * (rows.dim() - 1))
        on, off = (stable + slopes).mul_(below), (upper * below).addcmul_(gap, weight)
        return torch.where(rows > 0, on, off), to_slopes, None, None, None
