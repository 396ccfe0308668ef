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
from torch.nn import functional as F

from robustcli.networks.layers import Affine, Conv2d, ReLU
from robustcli.networks.network import Network
from robustcli.networks.phases import Phases, phased


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


class InputGradient:
    """The pass, prepared for a network in evaluation mode whose weights stand still meanwhile.

    Args:
        network: of any precision, on any device.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._back = [_backwards(cast(Affine | ReLU, layer)) for layer in network.layers]

    def __call__(self, points: Tensor, function: Callable[[Tensor], Tensor]) -> Slope:
        """Logits, values and gradient: one forward and one backward pass.

        Args:
            points: [N, *input_shape], in the precision of the network.
            function: of logits [N, K], differentiable.
        """
        passed: list[Tensor] = []
        with torch.no_grad():
            values = points.detach()
            for layer in self.network.layers:
                if isinstance(layer, ReLU):
                    # In place, unless all layers so far were views of the points.
                    values = F.relu(values, inplace=values.data_ptr() != points.data_ptr())
                    passed.append(values)
                else:
                    values = _laid_out(layer(values))
        with torch.enable_grad():
            logits = values.detach().requires_grad_()
            found = function(logits)
            (gradient,) = torch.autograd.grad(found.sum(), logits)
        with torch.no_grad():
            for back in reversed(self._back):
                if back is None:
                    gradient = torch.ops.aten.threshold_backward(_laid_out(gradient), passed.pop(), 0)
                else:
                    gradient = back(gradient)
        return Slope(logits.detach(), found.detach(), gradient)


def _laid_out(values: Tensor) -> Tensor:
    """Maps channels last, where that is faster: what meets entry by entry lies in the same order."""
    wanted = values.dim() == 4 and values.stride(1) > 1 and phased(values)  # parts of a map channels last serve as well
    return values.contiguous(memory_format=torch.channels_last) if wanted else values


def _backwards(layer: Affine | ReLU) -> Callable[[Tensor], Tensor] | None:
    """The adjoint of an affine layer; None for a ReLU."""
    if isinstance(layer, ReLU):
        return None
    if isinstance(layer, Conv2d) and phased(layer.weight):
        return Phases.of(layer.weight.detach(), layer.stride, layer.padding, layer.in_shape[1:])
    return layer.adjoint
