"""What bounds tell about a network: how many units each layer leaves open (003), and how tight a bound is (004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.relaxation import Rule, lines, parallel
from robustcli.bounds.types import Bounds, MarginBounds
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


def tightness(network: Network, ball: Ball, rows: Tensor, found: MarginBounds, rule: Rule = parallel) -> Tightness:
    """How tight a relaxation is whose lower lines have the slopes of `rule` (004, algorithm 1).

    The network's own values z(x') are compared with the relaxed solution at x', its worst input: a unit on its upper
    line meets the ReLU at z = l and z = u, one on its lower line at z = 0; r is the mean distance of z(x') to the
    nearest of these.

    Gradients flow through z(x'), the margins and the hidden bounds. The input x' and the choice of lines and ends count
    as constants; over linf balls they are, up to jumps.

    Args:
        network: same precision as the ball.
        ball: B balls, p = 1, 2 or inf.
        rows: functionals of the logits, [B, T, K], e.g. from `margin_rows`.
        found: the margins of the relaxation, and the hidden bounds it rests on, e.g. of `dual`.
        rule: `parallel` (Fast-Lin = KW dual) or `adaptive` (CROWN).
    """
    worst, raised, image = worst_input(network, ball, rows, found.layers, rule)
    *values, logits = network.pre_activations(worst)
    reached = (rows.flatten(0, 1) * logits).sum(1)
    distance, units = torch.zeros_like(reached), torch.zeros_like(reached)
    for value, above, bounds in zip(values, raised, found.layers, strict=True):
        lower, upper, unstable = (each.index_select(0, image) for each in (bounds.lower, bounds.upper, bounds.unstable))
        ends = torch.minimum((value - lower).abs(), (value - upper).abs())
        away = torch.where(above, ends, value.abs())
        distance = distance + torch.where(unstable, away, 0.0).flatten(1).sum(1)
        units = units + unstable.flatten(1).sum(1)
    gap = reached.view(rows.shape[:2]) - found.margins
    return Tightness(gap, (distance / units.clamp(min=1)).view(rows.shape[:2]))


@torch.no_grad()
def worst_input(
    network: Network, ball: Ball, rows: Tensor, layers: Sequence[Bounds], rule: Rule
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Where the relaxation is smallest (004, equations 7 to 9), for each of the B T functionals.

    With A_l the row on the outputs of layer l, a relaxed unit lies on its upper line where A_l < 0 and on its lower
    line elsewhere; the row pulled down to the input is smallest at x'.

    Returns:
        x', [B T, *input_shape]; for each hidden layer whether units lie on their upper line, [B T, *shape] bool; the
        ball of each functional, [B T].
    """
    here = Rows.whole(rows)
    raised: list[Tensor] = []
    for position in range(len(network.blocks) - 1, -1, -1):
        here = here.through(network.blocks[position]).dense()
        if position:
            bounds, above = layers[position - 1], here.values < 0
            relaxed = lines(bounds, rule(bounds))
            slope = torch.where(above, here.gather(relaxed.upper), here.gather(relaxed.lower))
            raised.insert(0, above)
            here = replace(here, values=here.values * slope)
    pulled = here.values.view(*rows.shape[:2], *network.input_shape)
    return ball.minimiser(pulled).flatten(0, 1), raised, here.image
