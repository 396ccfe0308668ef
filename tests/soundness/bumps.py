"""Networks that are wrong inside one small polytope and nowhere else, so that every distance to it is known.

    f_y - f_t  =  1 - relu(2 r - sum_k |s_k|) / r + g,        s(z) = M z - b,    g(z) >= 0

is negative only where || s ||_1 < r: a bump made of ReLUs, without any gradient farther than 2 r away. M is whatever
affine layers the network begins with: strided and padded convolutions, several layers without a ReLU between them, a
normalisation, ReLUs that are always on. g, made of further ReLU layers with random weights, vanishes at the planted
inputs and leads gradients astray elsewhere.

Distances. Let n = M^T sigma for a face sigma in {-1, 1}^k of the polytope: <n, z> <= <sigma, b> + r for all z of the
polytope, with equality on the face. If v lies on the face and x = v + t m with ||m||_p = 1 and <n, m> = ||n||_q, then

    t ||n||_q  =  <n, x - v>  <=  <n, x - z>  <=  ||n||_q ||x - z||_p        for every z of the polytope:

nothing is nearer to x than v, at distance t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.networks.layers import ReLU
from robustcli.networks.network import Network
from tests.nets import randomised
from tests.soundness.planted import Box, Planted, steepest

RADIUS = 0.03
"""r; the rows of M are orthonormal."""
DEEPER = 1e-7
"""How far behind the face inputs are planted, relative to their distance."""
DECOYS = (3, 2)
"""Units of g in its two layers."""
CLASSES = 3

Layer = dict[str, object]


def _linear(inputs: int, outputs: int) -> Layer:
    return {"type": "linear", "in": inputs, "out": outputs}


def _conv(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> Layer:
    return {"type": "conv2d", "in": inputs, "out": outputs, "kernel": kernel, "stride": stride, "padding": padding}


@dataclass(frozen=True)
class Front:
    """The layers that a network begins with, and how many directions k of their outputs the bump is made of."""

    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    directions: int


RELU: Layer = {"type": "relu"}
NORMALISE: Layer = {"type": "normalise", "mean": [0.2, 0.5, 0.9], "std": [0.3, 1.7, 0.6]}
FRONTS = {
    "dense": Front((4,), (_linear(4, 4),), 4),
    "stacked dense": Front((5,), (_linear(5, 7), _linear(7, 6)), 3),
    "normalised": Front((3,), (NORMALISE, _linear(3, 3)), 3),
    "behind a layer": Front((4,), (_linear(4, 6), RELU, _linear(6, 5)), 3),
    "convolution": Front((1, 5, 5), (_conv(1, 3, 3, 2, 1),), 4),
    "odd strides": Front((2, 7, 6), (_conv(2, 3, 5, 2, 2), RELU, _conv(3, 3, 4, 2, 1)), 3),
    "stacked convolutions": Front(
        (3, 5, 5),
        (NORMALISE, _conv(3, 2, 3, 1, 1), _conv(2, 2, 3, 1, 1), {"type": "avgpool2d", "kernel": 2, "stride": 1},
         _conv(2, 2, 5, 3, 2)),
        3,
    ),
}  # fmt: skip
PROFILES = ("cone", "tents")
"""How the |s_k| are made: of two ReLUs each, whose triangle relaxation is tight, or of tents of three, where it is
tight after splits only."""


def bump(front: str, profile: str, p: float, box: Box, count: int, seed: int) -> Planted:
    """A network with one bump, and points around it with the nearest misclassified input of each.

    In the box every third point lies on its faces; without it the inputs lie outside the unit box as well as inside.

    Args:
        front: of FRONTS; profile: of PROFILES.
        p: exponent of the norm; box: input box, or None.
        count: of points; seed: of everything that is drawn.
    """
    random = torch.Generator().manual_seed(seed)
    made = FRONTS[front]
    below = _front(made, seed)
    slope, offset = _affine(below)
    choice = _normal(random, made.directions, len(slope))
    factor = torch.linalg.cholesky(choice @ slope @ (choice @ slope).T)
    choice = torch.linalg.solve_triangular(factor, choice, upper=False)
    matrix = choice @ slope  # orthonormal rows
    middle = torch.rand(slope.shape[1], generator=random, dtype=torch.float64)
    middle = 0.6 + 0.6 * middle if box is None else 0.35 + 0.3 * middle

    sigma = _normal(random, count, made.directions).sign()
    share = 0.2 + torch.rand(sigma.shape, generator=random, dtype=torch.float64)
    share = share / share.sum(1, keepdim=True)
    aside = _normal(random, count, len(middle))
    aside = aside - aside @ matrix.T @ matrix
    nearest = middle + 0.2 * aside / aside.norm(dim=1, keepdim=True).clamp(min=1) + RADIUS * (sigma * share) @ matrix
    moves = steepest(sigma @ matrix, p)
    length = 0.3 * torch.ones(count, dtype=torch.float64)
    if box is not None:
        room = torch.where(moves > 0, box[1] - nearest, nearest - box[0]) / moves.abs().clamp(min=1e-30)
        length = room.amin(1)
    length = length * torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)[torch.arange(count) % 3]
    points = nearest + length.unsqueeze(1) * moves
    points = points if box is None else points.clamp(*box)
    planted = nearest - DEEPER * length.unsqueeze(1) * moves

    shape = (count, *made.shape)
    level = matrix @ middle + choice @ offset
    label = seed % CLASSES
    return Planted(
        name=f"{front}, {profile}",
        network=_finished(below, profile, choice, level, nearest.view(shape), label, random),
        p=p,
        box=box,
        points=points.view(shape),
        planted=planted.view(shape),
        labels=torch.full((count,), label),
        distances=torch.linalg.vector_norm(planted - points, ord=p, dim=1),
        nearest=True,
    )


def _front(made: Front, seed: int) -> Network:
    """The layers of a front as a network of its own, its ReLUs on for all inputs in [-3, 4]."""
    shape: list[Layer] = [] if len(made.shape) == 1 else [{"type": "flatten"}]
    network = randomised({"input_shape": list(made.shape), "layers": [*made.layers, *shape]}, seed)
    middle = torch.full((1, *made.shape), 0.5, dtype=torch.float64)
    reach = torch.full_like(middle, 3.5)
    for layer, following in zip(network.layers, [*network.layers[1:], None], strict=True):
        if isinstance(layer, ReLU):
            continue
        middle, reach = layer(middle), layer.magnitude(reach)
        if isinstance(following, ReLU):
            shift = float((reach - middle).max()) + 0.1
            layer.bias.data += shift
            middle = middle + shift
    return network


def _affine(network: Network) -> tuple[Tensor, Tensor]:
    """Matrix and offset of a network that is affine on the inputs that matter."""
    shape = network.input_shape
    eye = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    offset = network(torch.zeros(1, *shape, dtype=torch.float64))
    return (network(eye) - offset).T, offset[0]


def _finished(
    below: Network, profile: str, choice: Tensor, level: Tensor, nearest: Tensor, label: int, random: torch.Generator
) -> Network:
    """The whole network: bump and decoys behind the front."""
    count, width = choice.shape
    if profile == "cone":
        rows, level, heights = torch.cat([choice, -choice]), torch.cat([level, -level]), -torch.ones(2 * count)
        top = 2 * RADIUS
    else:
        wide = 2 * RADIUS
        rows, level = choice.repeat(3, 1), torch.cat([level - wide, level, level + wide])
        heights, top = torch.tensor([1.0, -2.0, 1.0]).repeat_interleave(count), 2 * RADIUS - count * wide
    first, second = DECOYS
    astray = _normal(random, first, width)
    values = below(nearest) @ astray.T
    rows, biases = torch.cat([rows, astray]), torch.cat([-level, -values.mean(0)])
    mixed = _normal(random, second, first)
    heard = (values - values.mean(0)).relu() @ mixed.T
    upper = torch.zeros(1 + second, len(rows), dtype=torch.float64)
    upper[0, : len(heights)], upper[1:, len(heights) :] = heights.double(), mixed
    offsets = torch.cat([torch.tensor([top], dtype=torch.float64), -heard.amax(0) - 0.01])

    logits = torch.zeros(CLASSES, 1 + second, dtype=torch.float64)
    target, other = (label + 1) % CLASSES, (label + 2) % CLASSES
    logits[target, 0] = 1 / RADIUS
    logits[label, 1:], logits[other, 1:] = 0.5, -0.5
    last = torch.zeros(CLASSES, dtype=torch.float64)
    last[label], last[other] = 1.0, -1.0

    layers = below.describe()["layers"]
    dense = [(rows, biases), (upper, offsets), (logits, last)]
    for place, (weight, _) in enumerate(dense):
        layers += [RELU] * (place > 0) + [_linear(weight.shape[1], weight.shape[0])]
    network = Network.from_description({"input_shape": list(below.input_shape), "layers": layers}).double()
    for mine, theirs in zip(network.layers, below.layers, strict=False):
        mine.load_state_dict(theirs.state_dict())
    for layer, (weight, bias) in zip(network.layers[len(below.layers) :: 2], dense, strict=True):
        layer.weight.data, layer.bias.data = weight, bias
    return network


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64)
