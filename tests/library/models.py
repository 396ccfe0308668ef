"""Models as users have them."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from robustcli.networks.layers import AvgPool2d, Conv2d, Flatten, Linear, ReLU
from robustcli.networks.network import Network


def as_torch(network: Network) -> nn.Sequential:
    """The same classifier made of torch's layers."""
    found: list[nn.Module] = []
    for layer in network.layers:
        match layer:
            case Linear():
                made: nn.Module = nn.Linear(layer.in_shape[0], layer.out_shape[0])
            case Conv2d():
                sizes = layer.kernel, layer.stride, layer.padding
                made = nn.Conv2d(layer.in_shape[0], layer.out_shape[0], *sizes)
            case AvgPool2d():
                made = nn.AvgPool2d(layer.kernel, layer.stride)
            case Flatten():
                made = nn.Flatten()
            case ReLU():
                made = nn.ReLU()
        made.to(network.dtype).load_state_dict(layer.state_dict())
        found.append(made)
    return nn.Sequential(*found).eval()


def perceptron(*widths: int, seed: int = 0) -> nn.Sequential:
    """A random dense classifier in float32."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def convolutional(seed: int = 0) -> nn.Sequential:
    """A small random classifier of 3 x 6 x 6 images with batch normalisation, float32, named layers."""
    torch.manual_seed(seed)
    body = nn.Sequential()
    body.add_module("conv1", nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False))
    body.add_module("norm1", nn.BatchNorm2d(4))
    body.add_module("relu1", nn.ReLU())
    norm = body[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    head = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))
    model = nn.Sequential(body, head).eval()
    head[-1].bias.data -= model(torch.rand(100, 3, 6, 6)).detach().mean(0)  # so that classes meet inside the unit box
    return model


def doubled(model: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """The model's own logits in float64."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(points.double())
