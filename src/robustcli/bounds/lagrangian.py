"""Lower bounds from any multipliers of the hidden layers: the dual of the triangle relaxation.

For rows B_l acting on the pre-activations z_l, whatever they are, and A_l acting on the outputs of the ReLUs,

    A_L = c W_{L+1},    A_{l-1} = B_l W_l,
    c f(x)  >=  c b_{L+1} + sum_l ( B_l b_l + sum_j m_lj )  +  min over the ball of B_1 W_1 x,
    m_lj  =  min over z in [l, u] of A_lj relu(z) - B_lj z  =  min(0, -B_lj l, (A_lj - B_lj) u)      (unstable j)

with B = A at active units and 0 at inactive ones: A relu(z) - B z bends at 0 only. The best B reach the value of the
triangle LP, whose multipliers of z they are (Dvijotham et al. 2018; Salman et al. 2019); those of a solver that stopped
early or computed badly give a looser bound, never a wrong one (as in Neumaier and Shcherbina 2004). The lines of
`relaxation` are the choices B = lower A where A > 0 and B = upper A where A < 0.

Rounding is counted as in `backward`, with m_lj in the place of [A]_- gap; B itself is exact as given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.backward import offsets
from robustcli.bounds.interval import falls
from robustcli.bounds.sizes import Sizes
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Block
from robustcli.networks.rows import Rows


def lagrangian(
    rows: Tensor, blocks: Sequence[Block], layers: Sequence[Bounds], ball: Ball, multipliers: Sequence[Tensor]
) -> Tensor:
    """Lower bounds of functionals of the last block's output over the ball, safe against rounding, [T].

    Args:
        rows: [T, *out_shape of the last block], float64.
        blocks: from the input on.
        layers: sound bounds on the hidden layers below, each [1, *shape].
        ball: one ball.
        multipliers: B of every hidden layer, each [T, *shape]; only the entries of unstable units count.
    Returns:
        [T]; -inf where a bound or multiplier is not a number.
    """
    sizes = Sizes.of(blocks, ball, layers)
    here = Rows.whole(rows.unsqueeze(0))
    value, error = rows.new_zeros(len(here)), rows.new_zeros(len(here))
    for layer in range(len(blocks) - 1, -1, -1):
        value = value + offsets(here, blocks[layer])
        error = error + _gamma(sizes.roundings[layer]) * _dot(here.values.abs(), sizes.values[layer])
        here = here.through(blocks[layer]).dense()
        if layer == 0:
            break
        bounds, above, below = layers[layer - 1], here.values, multipliers[layer - 1]
        below = torch.where(bounds.unstable, below, above * bounds.active)
        lost = torch.minimum(-below * bounds.lower, (above - below) * bounds.upper).clamp(max=0)
        lost = torch.where(bounds.unstable, lost, 0.0).flatten(1).sum(1)
        value, error = value + lost, error - _gamma(sizes.roundings[layer - 1]) * lost
        here = Rows(here.image, below, here.shape)
    down = falls(here, ball)
    error = error + _gamma(sizes.roundings[0]) * _dot(here.values.abs(), sizes.inputs)
    value = value - 2 * error - sizes.floor + _dot(here.values, ball.middle()) - down
    return torch.where(value.isfinite(), value, -torch.inf)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _gamma(roundings: int) -> float:
    unit = torch.finfo(torch.float64).eps / 2
    return roundings * unit / (1 - roundings * unit)
