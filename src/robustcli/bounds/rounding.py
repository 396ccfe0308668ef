"""How far rounding can move a bound: derived once per network, added outward to every bound that decides anything.

Every quantity of a bound is a sum over paths  W_k D W_{k-1} ... D W_1 x  (plus biases and slope intercepts) with slopes
D in [0, 1]. Evaluated in floating point with unit roundoff u, in whatever order, such a sum is off by at most
n u / (1 - n u) times the sum of absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1),
where n counts the roundings along one path. The sum of absolute values is at most

    M_0 = max |middle| + room over the ball,   M_k = |b_k| + 2 |W_k| M_{k-1}:

the factor 2 pays for the intercepts of the relaxation, which are themselves at most M_{k-1} at every unit. |b_k| is
summed over the layers of a block, whose offsets may cancel. A path is summed forward over the inputs of every layer or
backward over its outputs, and at its end over the inputs of the network or the units of one layer (the radius).

Products below the number range are lost whole, whatever their relative size: n of them, each at most `tiny`, in values
(which go on through the layers above) and in pulled-back rows (which go on through the values below).
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
    down, up = ball.room()
    largest = (ball.middle().abs() + torch.maximum(down, up)).flatten(1).amax(1)
    number = torch.finfo(network.dtype)
    unit, tiny = number.eps / 2, number.tiny
    slope = torch.ones(1, *network.input_shape, dtype=network.dtype, device=network.device)
    shift = torch.zeros_like(slope)
    blocks = network.blocks
    depth, errors = max(slope.numel(), *(block.units for block in blocks)), []
    scale = largest.to(slope)
    below = scale * slope.numel()  # sum over all units below of their M
    for position, block in enumerate(blocks):
        double = 1.0 if position == 0 else 2.0
        slope = double * block.magnitude(slope)
        shift = double * block.magnitude(shift) + block.offset_size().unsqueeze(0) + tiny / unit
        depth += block.roundings + ROUNDINGS_PER_UNIT
        gamma = 2 * depth * unit  # 2: rounding inside this very estimate, and n u / (1 - n u)
        size = slope * scale.view(-1, *[1] * (slope.dim() - 1)) + shift
        errors.append(gamma * size + (2 * depth * tiny * below).view(-1, *[1] * (size.dim() - 1)))
        below = below + size.flatten(1).sum(1)
    return errors
