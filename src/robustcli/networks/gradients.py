"""The gradient of a function of the logits towards the input: one pass forwards, one through the layers' adjoints.

    d/dx g(f(x))  =  (W^(1))^T D_1 (W^(2))^T D_2 ... (W^(L+1))^T g'(f(x)),      D_l = diag(ReLU l is active at x)

Autograd gives the same numbers and the same 0 at a kink. This knows that weights need no gradient, keeps nothing but
what the ReLUs let through, and has a faster adjoint of strided convolutions on a CPU (`phases`): half of the time that
a small convolutional network takes goes into these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from robustcli.networks.layers import Affine, Conv2d, ReLU
from robustcli.networks.network import Network
from robustcli.networks.phases import adjoint


@dataclass(frozen=True)
class Slope:
    """What a network says at some points, and which way a function of it falls or rises. Detached.

    logits: f(x), [N, K].
    values: the function of each point, as it was given.
    gradient: of their sum towards the points, [N, *input_shape].
    """

    logits: Tensor
    values: Tensor
    gradient: Tensor


def slope(network: Network, points: Tensor, function: Callable[[Tensor], Tensor]) -> Slope:
    """Logits, values and gradient at points, one forward and one backward pass.

    Args:
        network: in evaluation mode.
        points: [N, *input_shape], in its precision.
        function: of logits [N, K], differentiable.
    """
    passed: list[Tensor] = []
    with torch.no_grad():
        values = points.detach()
        for layer in network.layers:
            values = layer(values)
            if isinstance(layer, ReLU):
                passed.append(values)
    with torch.enable_grad():
        logits = values.detach().requires_grad_()
        found = function(logits)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
    with torch.no_grad():
        for layer in reversed(network.layers):
            if isinstance(layer, ReLU):
                gradient = torch.ops.aten.threshold_backward(gradient, passed.pop(), 0)
            elif isinstance(layer, Conv2d):
                gradient = adjoint(layer, gradient)
            else:
                gradient = cast(Affine, layer).adjoint(gradient)
    return Slope(logits.detach(), found.detach(), gradient)
