"""A ReLU classifier: a sequence of layers, seen as affine blocks between ReLUs.

    f = block_{L+1} o relu o block_L o ... o relu o block_1          (L hidden layers, K logits)

Every method of the five papers works on this view: `blocks` carries all weights, in the notation
W^(1), ..., W^(L+1) of 000 section 2.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustcli.networks.layers import Affine, Flatten, ReLU, Shape, build_layer


class Block:
    """Consecutive affine layers as one affine map; same vocabulary as a layer (`layers.Affine`)."""

    def __init__(self, layers: Sequence[Affine]) -> None:
        self.layers = tuple(layers)
        self.in_shape: Shape = self.layers[0].in_shape
        self.out_shape: Shape = self.layers[-1].out_shape

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def linear(self, x: Tensor) -> Tensor:
        """W x, without the bias: [N, *in_shape] -> [N, *out_shape]."""
        for layer in self.layers:
            x = layer.linear(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """W^T y: [N, *out_shape] -> [N, *in_shape]."""
        for layer in reversed(self.layers):
            y = layer.adjoint(y)
        return y

    def magnitude(self, x: Tensor) -> Tensor:
        """|W| x for x >= 0, or more than that where two mixing layers could cancel each other (`mixing` > 1)."""
        for layer in self.layers:
            x = layer.magnitude(x)
        return x

    def offset(self) -> Tensor:
        """b, [*out_shape]: the image of zero."""
        like = next((weight for layer in self.layers for weight in layer.state_dict(keep_vars=True).values()), None)
        zero = torch.zeros(1, *self.in_shape) if like is None else like.new_zeros(1, *self.in_shape)
        return self(zero).squeeze(0)

    def offset_size(self) -> Tensor:
        """Sum of the absolute values that b is made of, [*out_shape]: |b| and more where layers cancel each other."""
        size = self.offset().new_zeros(1, *self.in_shape)
        for layer in self.layers:
            size = layer.magnitude(size) + layer.offset_size(size)
        return size.squeeze(0)

    @property
    def mixing(self) -> int:
        """Layers in the block that do more than scale their inputs one by one; `magnitude` is exact up to one."""
        return sum(max(layer.fan_in, layer.fan_out) > 1 for layer in self.layers)

    @property
    def units(self) -> int:
        """Number of outputs."""
        return math.prod(self.out_shape)

    @property
    def fan_in(self) -> int:
        """Products summed along one path (the depth of rounding in one output)."""
        return sum(layer.fan_in + 2 for layer in self.layers)

    @property
    def roundings(self) -> int:
        """Roundings along one path through the block, forward or backward, at most."""
        return sum(max(layer.fan_in, layer.fan_out) + 2 for layer in self.layers)


class Network(nn.Module):
    """A ReLU classifier over inputs [N, *input_shape] with K logits.

    Args:
        layers: affine layers and ReLUs in order; the last one affine, with K outputs.
        input_shape: shape of one input.
        name: name of the architecture, for people.
    Raises:
        ValueError: when shapes do not chain, or a ReLU stands first, last, or next to another.
    """

    def __init__(self, layers: Iterable[Affine | ReLU], input_shape: Sequence[int], name: str = "custom") -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.input_shape: Shape = tuple(input_shape)
        self.name = name
        self._check()

    def _check(self) -> None:
        shape, affine_before = self.input_shape, False
        for position, layer in enumerate(self.layers):
            if isinstance(layer, ReLU):
                if not affine_before:
                    raise ValueError(f"layer {position}: a ReLU must follow an affine layer")
                affine_before = False
                continue
            if not isinstance(layer, Affine):
                raise ValueError(f"layer {position}: {type(layer).__name__} is not in the layer set")
            if layer.in_shape != shape:
                raise ValueError(
                    f"layer {position}: expects shape {list(layer.in_shape)}, the layer before gives {list(shape)}"
                )
            shape, affine_before = layer.out_shape, True
        if not affine_before or len(shape) != 1:
            raise ValueError("the last layer must be affine and give one vector of logits")

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Network:
        """The network (with fresh weights) that `describe()` wrote.

        Raises:
            ValueError: for unknown layers or shapes that do not chain.
        """
        shape = tuple(int(side) for side in description["input_shape"])
        layers: list[Affine | ReLU] = []
        here = shape
        for item in description["layers"]:
            layer = build_layer(item, here)
            if isinstance(layer, Affine):
                here = layer.out_shape
            layers.append(layer)
        return cls(layers, shape, description.get("name", "custom"))

    def describe(self) -> dict[str, Any]:
        """Architecture as a JSON object: name, input shape, layers."""
        layers = [cast(Affine | ReLU, layer).describe() for layer in self.layers]
        return {"name": self.name, "input_shape": list(self.input_shape), "layers": layers}

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.blocks[-1].units

    @property
    def hidden_units(self) -> int:
        """Number of ReLUs N."""
        return sum(block.units for block in self.blocks[:-1])

    @property
    def parameter_count(self) -> int:
        """Number of trained weights."""
        return sum(weight.numel() for weight in self.parameters())

    @property
    def blocks(self) -> list[Block]:
        """The L+1 affine maps between the ReLUs, sharing this network's weights."""
        blocks: list[Block] = []
        group: list[Affine] = []
        for layer in self.layers:
            if isinstance(layer, Affine):
                group.append(layer)
            else:
                blocks.append(Block(group))
                group = []
        return [*blocks, Block(group)]

    def below(self, position: int) -> Network:
        """The network whose logits are the pre-activations of hidden layer `position` (0-based), as one vector; its
        weights are this network's."""
        ends = [place for place, layer in enumerate(self.layers) if isinstance(layer, ReLU)]
        layers = [cast(Affine | ReLU, layer) for layer in self.layers[: ends[position]]]
        shape = self.blocks[position].out_shape
        return Network(layers if len(shape) == 1 else [*layers, Flatten(shape)], self.input_shape)

    def pre_activations(self, x: Tensor) -> list[Tensor]:
        """Values before each ReLU, then the logits: L+1 tensors [N, *block.out_shape]."""
        values = []
        for position, block in enumerate(self.blocks):
            x = block(x if position == 0 else x.relu())
            values.append(x)
        return values

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def double(self) -> Network:
        """A float64 copy in evaluation mode; float32 weights convert exactly."""
        copy = Network.from_description(self.describe()).to(self.device, torch.float64)
        copy.load_state_dict(self.state_dict())
        return copy.eval().requires_grad_(False)

    def weights_hash(self) -> str:
        """sha256 over architecture and weights: equal exactly when the function is stored alike."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """f_y - max_{s != y} f_s for logits [N, K] and labels [N] -> [N]; negative exactly when misclassified."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -math.inf)
    return own - others.amax(1)


def margin_rows(labels: Tensor, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows c = e_y - e_t for every t != y.

    Returns:
        rows [B, K-1, K] and the targets t [B, K-1], ascending.
    """
    eye = torch.eye(classes, dtype=dtype, device=labels.device)
    everyone = torch.arange(classes, device=labels.device).expand(len(labels), classes)
    targets = everyone[everyone != labels.unsqueeze(1)].view(len(labels), classes - 1)
    return eye[labels].unsqueeze(1) - eye[targets], targets
