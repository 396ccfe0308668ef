"""How rows come down where gradients are needed: to train on the dual bound (003).

Rows are computed again for their gradients (`recomputed`), but for those of units that turn out stable; the few rows of
margins, all of which are needed, are kept. Second convolutions have a way of their own (`second_layer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from robustcli.balls import Ball
from robustcli.bounds.interval import reaches
from robustcli.bounds.pull import Pull, Radii, Relaxation, rows_at_once
from robustcli.bounds.recomputed import Plan, Walk, recomputed, walked
from robustcli.bounds.second_layer import SecondLayer
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows, widest

KEPT_NUMBERS = 1 << 22  # coefficients of rows that are kept for gradients rather than computed again
PORTION = 2  # in units of what is pulled back at once without gradients: each portion adds up gradients of all weights
MANY = 0.2  # of a second convolution's units: so many are all computed
AT_ONCE = 16  # images, where all units of a layer are computed


def chosen_pull(network: Network) -> Pull:
    """The way rows come down in the network's own precision."""
    learning = torch.is_grad_enabled() and bool(weights(network.blocks))
    return RecomputedPull(network) if learning else Pull(network)


def weights(blocks: Sequence[Block]) -> list[Tensor]:
    """All tensors of the layers that need gradients."""
    layers = [layer for block in blocks for layer in block.layers]
    own = [value for layer in layers for value in vars(layer).values() if isinstance(value, Tensor)]
    return [value for value in (*(w for layer in layers for w in layer.parameters()), *own) if value.requires_grad]


class RecomputedPull(Pull):
    """Rows that are computed again for their gradients."""

    def row_radii(self, rows: Tensor, ball: Ball) -> Tensor:
        block = self.blocks[-1]

        def descent(image: Tensor, target: Tensor, here: Sequence[Relaxation], ball: Ball, own: Tensor) -> Radii:
            return descended(Rows(image, own[image, target], block.out_shape).through(block), self.blocks, here, ball)

        everyone = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device).nonzero()
        blocks = self.blocks[: len(self.relaxations) + 1]
        plan = self._plan(descent, ball)
        maps = self._maps(ball, rows)
        if len(everyone) * widest(blocks) <= KEPT_NUMBERS:
            return walked(plan, everyone, maps)[0]
        own = weights(blocks)
        return recomputed(plan, everyone, maps, own, own)[0]

    def unit_radii(self, units: Tensor, ball: Ball, shared: Tensor | None) -> Radii:
        blocks = self.blocks[: len(self.relaxations) + 1]
        block, add = blocks[-1], shared is None

        def descent(image: Tensor, unit: Tensor, here: Sequence[Relaxation], ball: Ball) -> Radii:
            return descended(Rows.outputs(block, image, unit), blocks, here, ball, add)

        second = SecondLayer.of(blocks, ball) if len(blocks) == 2 and shared is not None else None
        plan = sparse = self._plan(descent, ball)
        if second is not None:

            def everything(image: Tensor, unit: Tensor, here: Sequence[Relaxation], ball: Ball) -> Radii:
                found = second.reaches(here[0].slope, ball).flatten().index_select(0, image * block.units + unit)
                return found, found

            dense, _ = self._plan(everything, ball)(units)

            def plan(places: Tensor) -> tuple[Walk, int]:
                many = len(places) > MANY * ball.size * block.units
                return (dense, AT_ONCE * block.units) if many else sparse(places)

        own = weights(blocks)
        matrices, used = ([], []) if second is None else (second.matrices, second.used)
        down, up = recomputed(plan, units, self._maps(ball), [*matrices, *own], [*used, *own])
        if shared is None:
            return down, up
        share = shared.flatten().index_select(0, units[:, 0] * block.units + units[:, 1])
        return down + share, up + share

    def _maps(self, ball: Ball, *more: Tensor) -> list[Tensor]:
        return [*(map for each in self.relaxations for map in (each.slope, each.gap)), ball.center, ball.eps, *more]

    def _plan(self, descent: Callable[..., Radii], ball: Ball) -> Plan:
        """The walk that unpacks `_maps` for `descent(image, number, relaxations, ball, *more)`."""
        count = len(self.relaxations)
        at_once = 2 * rows_at_once(self.blocks[: count + 1])

        def walk(image: Tensor, number: Tensor, maps: Sequence[Tensor]) -> Radii:
            here = [Relaxation(maps[2 * place], maps[2 * place + 1]) for place in range(count)]
            center, eps, *rest = maps[2 * count :]
            return descent(image, number, here, Ball(center, eps, ball.p, ball.box), *rest)

        return lambda places: (walk, at_once)


def descended(
    rows: Rows, blocks: Sequence[Block], relaxations: Sequence[Relaxation], ball: Ball, add: bool = True
) -> Radii:
    """`pull.radii`, by kernels made for gradients; `add`: with what the last relaxation adds."""
    spread = rows.values.new_zeros(len(rows))
    for block, relaxation in zip(reversed(blocks[: len(relaxations)]), reversed(relaxations), strict=True):
        if add:
            rows, share = crossed(rows, relaxation)
            spread = spread + share
        else:
            rows, add = rows.times(relaxation.slope), True
        rows = rows.through(block)
    down, up = reaches(rows, ball)
    return spread + down, spread + up


def crossed(rows: Rows, relaxation: Relaxation) -> tuple[Rows, Tensor]:
    """Rows behind the relaxation, as rows before it; what it adds to how far they move, [n]."""
    last = rows.values.dim() == 4 and rows.values.stride(1) == 1 and rows.window is None

    def flat(values: Tensor) -> Tensor:
        return (values.permute(0, 2, 3, 1) if last else values).flatten(1)

    def seen(map: Tensor) -> Tensor:
        if rows.window is not None:
            return rows.gather(map).flatten(1)
        return flat(map) if len(map) == 1 else flat(map).index_select(0, rows.image)

    share, scaled = _Crossing.apply(flat(rows.values), seen(relaxation.slope), seen(relaxation.gap))
    shape = rows.values.shape
    if last:
        return replace(rows, values=scaled.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)), share
    return replace(rows, values=scaled.view(shape)), share


class _Crossing(torch.autograd.Function):
    """Rows [n, m] times slopes, and |rows| @ gap / 2; slopes and gaps [n, m], or [1, m] for all."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, slope: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(values, slope, gap)
        sizes = values.abs()
        share = sizes @ gap[0] if len(gap) == 1 else sizes.mul_(gap).sum(1)
        return share / 2, values * slope

    @staticmethod
    def backward(ctx, share: Tensor, scaled: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        values, slope, gap = ctx.saved_tensors
        half = share.unsqueeze(1) / 2
        back = values.sign().mul_(gap).mul_(half).add_(scaled * slope)
        tilt = scaled * values
        if len(slope) == 1:
            return back, tilt.sum(0, keepdim=True), half.t() @ values.abs()
        return back, tilt, values.abs().mul_(half)
