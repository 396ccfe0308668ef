"""Coordinates in which the ball of a question is a plain one: for inputs normalised outside the network, and for radii
that differ from channel to channel.

The points x that a network takes may be x = (pixels - m) / s, and the ball, in pixels or in x, may have a radius eps_c
for every channel c. With suitable mean and std per channel

    x = (z - mean) / std

turns it into { z : ||z - z0||_p <= eps }, and the network f into f behind a normalisation layer
(`networks.layers.Normalise`), which every bound knows. In particular

    z = pixels               mean = m,           std = s,           eps as given
    z = pixels / eps_c       mean = m / eps_c,   std = s / eps_c,   eps = 1

Rounding. The layer's constants are float64 numbers, and the ball is put around z0 = std x + mean as computed. In each
coordinate that is off by at most 2 u (|std x| + |z0|), u the unit roundoff; std itself is off by a factor 1 + u from
s / eps_c. The radius is enlarged by the norm of the former and by a factor for the latter, and the box of z is widened
alike: ball and box in z contain those that are asked about. So proofs hold as they are. Misclassified points are judged
again as x (`Frame.leave`), distances from below are shortened by what the centre is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from robustcli.balls import vector_norm
from robustcli.boxes import Box, Ends
from robustcli.errors import UsageError
from robustcli.networks.bundles import filled
from robustcli.networks.checkpoints import without_storage
from robustcli.networks.layers import Shape
from robustcli.networks.network import Network

UNIT = torch.finfo(torch.float64).eps / 2
SPARE = 8 * UNIT
"""Relative: covers the few roundings of one operation each, and those of the estimates themselves."""
OUTSIDE = 1e-6
"""Of the box's width: how far points may lie outside. Normalised in float32 and back, they do by some 1e-7."""


@dataclass(frozen=True)
class Normalised:
    """How the points were made outside the network: x = (pixels - mean) / std (`torchvision.transforms.Normalize`).

    With it eps, box and distances are in pixels.

    Args:
        mean, std: one number, or one per channel.
    """

    mean: float | Sequence[float] | Tensor
    std: float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Frame:
    """x = (z - mean) / std.

    Args:
        mean, std: [C, 1, ...] float64, one number per channel (or feature).
        shape: of one x.
    """

    mean: Tensor
    std: Tensor
    shape: Shape

    @classmethod
    def of(cls, inputs: Normalised, unit: Tensor, shape: Shape) -> Frame:
        """z = pixels / unit.

        Args:
            inputs: how x is made from pixels.
            unit: [C, 1, ...], > 0.
            shape: of x.
        Raises:
            UsageError: for a std that is not positive, for numbers that do not fit the channels.
        """
        std = per_channel(inputs.std, shape, "std").to(unit.device)
        if not bool((std > 0).all()):
            raise UsageError("every std must be positive")
        return cls(per_channel(inputs.mean, shape, "mean").to(unit.device) / unit, std / unit, shape)

    def enter(self, points: Tensor, p: float) -> tuple[Tensor, Tensor]:
        """z0 of x, [N, *shape] float64 -> the same, and the l_p norm of what it may be off, [N]."""
        scaled = self.std * points
        found = scaled + self.mean
        off = vector_norm((2 * UNIT * (scaled.abs() + found.abs())).flatten(1), p)
        return found, off * (1 + 1e-9) + torch.finfo(off.dtype).tiny

    def leave(self, z: Tensor) -> Tensor:
        """x of z, [N, *shape] float64."""
        return (z - self.mean) / self.std

    def box(self, box: Box, unit: Tensor) -> Box:
        """The box of z, at least as large as that of pixels = unit z."""
        if box is None or bool((unit == 1).all()):
            return box
        low, high = (spread(end, self.shape).to(unit.device) / unit for end in box)
        slack = SPARE * (torch.maximum(low.abs(), high.abs()) + self.mean.abs())
        return (low - slack).flatten(), (high + slack).flatten()

    def before(self, network: Network) -> Network:
        """z -> f((z - mean) / std): float64 where it counts, in the precision of f where it searches.

        Raises:
            UsageError: when a first `nn.Unflatten` puts coordinates of different constants into one channel.
        """
        constants = {name: self._channels(getattr(self, name), network.input_shape) for name in ("mean", "std")}
        layer = {"type": "normalise", **{name: value.flatten().tolist() for name, value in constants.items()}}
        description = network.describe()
        description["layers"] = [layer, *description["layers"]]
        state = {f"layers.0.{name}": value for name, value in constants.items()}
        for name, value in network.state_dict().items():
            _, number, rest = name.split(".", 2)
            state[f"layers.{int(number) + 1}.{rest}"] = value.detach().double()
        exact = filled(without_storage(description, "the model"), state, "the model")
        return exact if network.dtype == torch.float64 else Rounded.of(exact, network.dtype)

    def _channels(self, value: Tensor, shape: Shape) -> Tensor:
        """Constants of x as constants of a network that takes x in another shape."""
        rows = value.expand(self.shape).reshape(shape[0], -1)
        if not bool((rows == rows[:, :1]).all()):
            raise UsageError(
                f"the model takes inputs as {list(shape)}: constants and radii can differ between its channels only"
            )
        return rows[:, :1].reshape(-1, *[1] * (len(shape) - 1))


class Rounded(Network):
    """A float64 network in a lower precision that does not hold all its constants: to search with. `double` is the
    network itself."""

    _exact: tuple[Network, ...]

    def double(self) -> Network:  # type: ignore[override]
        return self._exact[0]

    @classmethod
    def of(cls, exact: Network, dtype: torch.dtype) -> Rounded:
        """Every constant rounded."""
        with torch.device("meta"):
            rounded = cast(Rounded, cls.from_description(exact.describe()))
        rounded.load_state_dict({name: value.to(dtype) for name, value in exact.state_dict().items()}, assign=True)
        rounded._exact = (exact,)  # in a tuple: its weights are not weights of this one
        return rounded.eval()


def per_channel(given: Any, shape: Shape, name: str) -> Tensor:
    """One number, C numbers, or a tensor of a shape such as (C, 1, 1) -> [C, 1, ...] float64.

    Raises:
        UsageError: for anything else, or a number that is not finite.
    """
    try:
        value = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} = {given!r} is not a number, nor one per channel") from error
    channels = (shape[0], *[1] * (len(shape) - 1))
    fits = value.numel() == shape[0] and (value.dim() <= 1 or tuple(value.shape) in (channels, (1, *channels)))
    if value.numel() != 1 and not fits:
        raise UsageError(
            f"{name} has shape {list(value.shape)}, inputs have {list(shape)}",
            f"give one number, or one per channel: {shape[0]} numbers, or a tensor {list(channels)}",
        )
    if not bool(value.isfinite().all()):
        raise UsageError(f"{name} = {given!r} is not finite")
    return value.flatten().expand(shape[0]).reshape(channels).clone()


def spread(value: Tensor | float, shape: Shape) -> Tensor:
    """A number, or [d] in flattened order, as a float64 tensor of `shape`."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    return tensor.view(shape) if tensor.dim() else tensor.expand(shape)


def widened(box: Ends, points: Tensor) -> Ends:
    """The box, moved outward to the points [N, *shape] where rounding has left them just outside.

    Raises:
        UsageError: when a point lies farther outside than `OUTSIDE` of the box's width.
    """
    flat = points.flatten(1)
    low, high = (torch.as_tensor(end, dtype=flat.dtype, device=flat.device) for end in box)
    out = torch.maximum(low - flat, flat - high) > OUTSIDE * (high - low)
    if bool(out.any()):
        row = int(out.any(1).nonzero()[0])
        raise UsageError(
            f"point {row} lies outside the box",
            "box is about the points as given; about pixels where inputs=Normalised(mean, std) says how they were made",
        )
    if not bool(((flat < low) | (flat > high)).any()):
        return box
    return torch.minimum(low, flat.amin(0)), torch.maximum(high, flat.amax(0))
