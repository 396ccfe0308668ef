"""Functions of many rows, with gradients, in the memory of a few.

Autograd would keep every row on its way down. Here rows are computed without gradients, some images at a time, and once
more, with them, when the gradient of the whole is known: by then most need not be, since the bounds of units that turn
out stable act on nothing. Pieces are small enough for a processor's caches, which pays for the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from robustcli.networks.rows import by_image

Walk = Callable[[Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]
"""From the place of each row's image among those of the maps, [m], its number, [m], and the maps of these images: two
results a row, [m]. A function of nothing else but weights."""

Plan = Callable[[Tensor], tuple[Walk, int]]
"""How to walk for rows given by image and number, [n, 2], and for how many of them at once."""


def recomputed(
    plan: Plan, places: Tensor, maps: Sequence[Tensor], weights: Sequence[Tensor], used: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """What a walk finds for all rows, two [n].

    Args:
        plan: the walk.
        places: image and number of each row, in the order of the images, [n, 2].
        maps: what rows see of their images, [B, ...] each, with gradients.
        weights: what else they are made of, with gradients.
        used: the weights as the walk takes them, without a past (leaves of autograd, in the same order).
    """
    down, up = _Recomputed.apply(plan, places, len(maps), used, *maps, *weights)
    return down, up


def walked(plan: Plan, places: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The same with all that autograd keeps."""
    walk, at_once = plan(places)
    portions = by_image(places, at_once)
    found = [walk(image, number, [each[images] for each in maps]) for images, image, number in portions]
    downs, ups = zip(*found, strict=True)
    return torch.cat(downs), torch.cat(ups)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, plan: Plan, places: Tensor, count: int, used: Sequence[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(places, *tensors)
        ctx.plan, ctx.count, ctx.used = plan, count, used  # type: ignore[attr-defined]
        return walked(plan, places, tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        places, *tensors = ctx.saved_tensors
        maps = tensors[: ctx.count]
        totals = [torch.zeros_like(each) if each.requires_grad else None for each in tensors]
        sums = [total for total in totals if total is not None]
        wanted = ((gradients[0] != 0) | (gradients[1] != 0)).nonzero().squeeze(1)
        asked, places, done = torch.stack(gradients).index_select(1, wanted), places.index_select(0, wanted), 0
        walk, at_once = ctx.plan(places)
        for images, image, number in by_image(places, at_once):
            here = [each.detach()[images].requires_grad_(each.requires_grad) for each in maps]
            with torch.enable_grad():
                found = torch.stack(walk(image, number, here))
            own = [each for each in here if each.requires_grad]
            share = asked[:, done : done + len(number)]
            parts = torch.autograd.grad(found, [*own, *ctx.used], share, allow_unused=True)
            for place, (total, part) in enumerate(zip(sums, parts, strict=True)):
                if part is not None:
                    (total[images] if place < len(own) else total).add_(part)
            done += len(number)
        return None, None, None, None, *totals
