"""How far rounding can move a bound: derived once per network, added outward to every bound that decides anything.

Every quantity of a bound is a sum over paths  W_k D W_{k-1} ... D W_1 x  (plus biases and slope intercepts) with slopes
D in [0, 1]. Evaluated in floating point with unit roundoff u, in whatever order, such a sum is off by at most
n u / (1 - n u) times the sum of absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1),
where n counts the roundings along one path. The sum of absolute values is at most

    M_0 = max |z| over the ball,   M_k = |b_k| + 2 |W_k| M_{k-1}:

the factor 2 pays for the intercepts of the relaxation, which are themselves at most M_{k-1} at every unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.networks.network import Network

ROUNDINGS_PER_UNIT = 16  # slope, intercept, products with them, the final subtraction: a generous count


@torch.no_grad()
def rounding_errors(network: Network, ball: Ball) -> list[Tensor]:
    """Upper bounds on the rounding error of any bound computed for each block's outputs.

    Args:
        network: in the precision the bounds are computed in.
        ball: B balls.
    Returns:
        one tensor [B, *block.out_shape] per block, the logits' last.
    """
    low, high = ball.bounding_box()
    largest = torch.maximum(low.abs(), high.abs()).flatten(1).amax(1)
    unit = torch.finfo(network.dtype).eps / 2
    slope = torch.ones(1, *network.input_shape, dtype=network.dtype, device=network.device)
    shift = torch.zeros_like(slope)
    depth, errors = ball.center[0].numel(), []
    for position, block in enumerate(network.blocks):
        double = 1.0 if position == 0 else 2.0
        slope = double * block.magnitude(slope)
        shift = double * block.magnitude(shift) + block.offset().abs().unsqueeze(0)
        depth += block.fan_in + ROUNDINGS_PER_UNIT
        gamma = 2 * depth * unit  # 2: rounding inside this very estimate, and n u / (1 - n u)
        scale = largest.view(-1, *[1] * (slope.dim() - 1)).to(slope)
        errors.append(gamma * (slope * scale + shift))
    return errors
