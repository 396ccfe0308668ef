"""What bounds tell about a network: how many units each layer leaves open (003), and how tight a bound is (004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins
from robustcli.bounds.relaxation import lines, parallel
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Network
from robustcli.networks.rows import Rows


@dataclass(frozen=True)
class IndexSets:
    """Sizes of the sets I+ (active), I- (inactive) and I (unstable) of 003, equation 10, each [B, L]."""

    active: Tensor
    inactive: Tensor
    unstable: Tensor

    @classmethod
    def of(cls, layers: Sequence[Bounds]) -> IndexSets:
        """Of the L hidden layers, from bounds for B balls (003, figure 10 draws their histograms)."""

        def count(chosen: list[Tensor]) -> Tensor:
            return torch.stack([mask.flatten(1).sum(1) for mask in chosen], dim=1)

        unstable = [bounds.unstable for bounds in layers]
        active = [bounds.active & ~some for bounds, some in zip(layers, unstable, strict=True)]
        neither = [~(some | others) for some, others in zip(unstable, active, strict=True)]
        return cls(count(active), count(neither), count(unstable))


@dataclass(frozen=True)
class Tightness:
    """The indicators of 004, section 4, for each functional; both zero where the relaxation is tight (proposition 1).

    Args:
        gap: d, the margin of the network at the relaxation's worst input minus the margin of the relaxation, >= 0,
            [B, T].
        distance: r, how far unstable units are there from where the relaxed solution touches their ReLU, on average,
            >= 0, [B, T]; 0 without unstable units.
    """

    gap: Tensor
    distance: Tensor


@torch.no_grad()
def tightness(network: Network, ball: Ball, rows: Tensor, layers: Sequence[Bounds]) -> Tightness:
    """How tight the Fast-Lin relaxation with these hidden bounds is (004, algorithm 1).

    The worst input x' of the relaxation minimises the row pulled down to it. There, with A_l the row on the outputs of
    layer l, the relaxed unit lies on its upper line where A_l < 0, which meets the ReLU at z = l and z = u, and on its
    lower line elsewhere, which meets it at z = 0; r is the mean distance of z(x') to the nearest of these.

    Args:
        network: same precision as the ball.
        ball: B balls, p = 1, 2 or inf.
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        layers: bounds on the hidden layers, e.g. of `dual`.
    """
    here = Rows.whole(rows)
    above: list[Tensor] = []
    for position in range(len(network.blocks) - 1, -1, -1):
        here = here.through(network.blocks[position]).dense()
        if position:
            above.insert(0, here.values < 0)
            bounds = layers[position - 1]
            here = here.times(lines(bounds, parallel(bounds)).upper)
    worst = ball.minimiser(here.values.view(*rows.shape[:2], *network.input_shape)).flatten(0, 1)
    *values, logits = network.pre_activations(worst)
    reached = (rows.flatten(0, 1) * logits).sum(1)
    distance, units = torch.zeros_like(reached), torch.zeros_like(reached)
    for value, raised, bounds in zip(values, above, layers, strict=True):
        lower, upper, unstable = (
            each.index_select(0, here.image) for each in (bounds.lower, bounds.upper, bounds.unstable)
        )
        ends = torch.minimum((value - lower).abs(), (value - upper).abs())
        away = torch.where(raised, ends, value.abs())
        distance = distance + torch.where(unstable, away, 0.0).flatten(1).sum(1)
        units = units + unstable.flatten(1).sum(1)
    gap = reached - backward_margins(network, ball, rows, layers, parallel, outward=False).flatten()
    return Tightness(gap.view(rows.shape[:2]), (distance / units.clamp(min=1)).view(rows.shape[:2]))
