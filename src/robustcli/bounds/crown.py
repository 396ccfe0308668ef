"""CROWN (Zhang et al. 2018): backward bounds whose lower lines have the slope 1 or 0 of the smaller triangle.

Hidden layers come first to last, each on the bounds of those below. A unit has rows of its own, one for its lower and
one for its upper bound (their lower lines differ), but only where cheaper bounds leave its sign open: CROWN's own lines
with every unit moving on its own, which is never tighter than CROWN, and bounds that are known already.

Neither CROWN nor the KW dual dominates: which is tighter changes from unit to unit. The dual needs one row a unit, and
so comes first where nothing is known: it settles most signs, and the result is the better of both at every unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.backward import Shared, lowest, unit_ends
from robustcli.bounds.dual import dual, first_bounds
from robustcli.bounds.interval import affine, replaced, widen
from robustcli.bounds.pull import rows_at_once
from robustcli.bounds.relaxation import Lines, Rule, adaptive, lines
from robustcli.bounds.sizes import Sizes
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Block, Network
from robustcli.networks.rows import Rows, by_image


def crown(
    network: Network,
    ball: Ball,
    rows: Tensor,
    *,
    known: Sequence[Bounds] | None = None,
    outward: bool = True,
    rounded: Network | None = None,
) -> MarginBounds:
    """CROWN bounds for every hidden layer and lower bounds on rows @ logits.

    Args:
        network: same precision as the ball; float64 for certificates.
        ball: B balls, any p, boxed or not (boxed: p = 1, 2 or inf).
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        known: sound bounds on the hidden layers over the same balls: none of the result's is looser. None starts from
            those of the KW dual; bounds from -inf to inf (`unknown`) give CROWN on its own.
        outward: widen every bound by the rounding error (False only inside training losses).
        rounded: the network in a lower precision, to pull rows back in; what that loses is added. None: itself.
    Returns:
        margins [B, T] and the hidden bounds.
    """
    if known is None:
        known = dual(network, ball, rows[:, :0], outward=outward, rounded=rounded).layers
    blocks = network.blocks
    pulled, dtype = (blocks, network.dtype) if rounded is None else (rounded.blocks, rounded.dtype)
    sizes = Sizes.at(ball, outward)
    layers: list[Bounds] = []
    found: list[Lines] = []
    for position, block in enumerate(blocks):
        sizes = sizes.beyond(block, layers[-1] if layers else None)
        if position == len(blocks) - 1:
            break
        error = sizes.rounding(position) if outward else None
        if position == 0:
            bounds = first_bounds(block, ball, block(ball.middle()), error, known[0])
        else:
            quick = quick_bounds(block, layers[-1], found[-1])
            quick = (quick if error is None else widen(quick, error)).intersect(known[position])
            bounds = refined(quick, pulled[: position + 1], Shared(found), ball, sizes)
        layers.append(bounds)
        found.append(lines(bounds, adaptive(bounds), dtype))
    margins = lowest(Rows.whole(rows), pulled, Shared(found), ball, sizes, dtype).view(rows.shape[:2])
    return MarginBounds(margins, layers)


def backward_margins(
    network: Network, ball: Ball, rows: Tensor, layers: Sequence[Bounds], rule: Rule, outward: bool = True
) -> Tensor:
    """Lower bounds on rows @ logits, [B, T], from given hidden bounds and a rule for the lower slopes.

    Args:
        network, ball, rows, outward: as in `crown`.
        layers: sound bounds on the hidden layers over these balls; they are not made tighter.
        rule: `relaxation.adaptive` (CROWN), `relaxation.parallel` (KW dual), or another.
    """
    blocks = network.blocks
    sizes = Sizes.of(blocks, ball, layers) if outward else None
    slopes = Shared([lines(bounds, rule(bounds)) for bounds in layers])
    return lowest(Rows.whole(rows), blocks, slopes, ball, sizes).view(rows.shape[:2])


def unknown(network: Network, ball: Ball) -> list[Bounds]:
    """Bounds on the hidden layers that say nothing."""
    wide = [ball.center.new_full((ball.size, *block.out_shape), torch.inf) for block in network.blocks[:-1]]
    return [Bounds(-upper, upper) for upper in wide]


def quick_bounds(block: Block, before: Bounds, relaxed: Lines) -> Bounds:
    """Interval bounds after the *relaxed* ReLU, g in [lower l, u]: each unit on its own, so never tighter than CROWN.

    CROWN's slope is 1 only where -l <= u: no value is larger than u, hence than what `Sizes` count with.
    """
    upper = torch.where(before.unstable, before.upper, relaxed.upper * before.upper)
    return affine(block, relaxed.lower * before.lower, upper)


def refined(bounds: Bounds, blocks: Sequence[Block], slopes: Shared, ball: Ball, sizes: Sizes) -> Bounds:
    """Sound bounds on the outputs of the last of `blocks`, tighter where they leave the sign open."""
    open_units = bounds.unstable.flatten(1).nonzero()
    if len(open_units) == 0:
        return bounds
    lowers, uppers = [], []
    for images, image, unit in by_image(open_units, rows_at_once(blocks)):
        lower, upper = unit_ends(image, unit, blocks, slopes.take(images), ball.take(images), sizes.take(images))
        lowers.append(lower)
        uppers.append(upper)
    flat = open_units[:, 0] * blocks[-1].units + open_units[:, 1]
    return bounds.intersect(replaced(bounds, flat, torch.cat(lowers), torch.cat(uppers)))
