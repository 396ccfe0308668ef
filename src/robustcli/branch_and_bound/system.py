"""One point's network over its ball as dense linear forms in pixels x and unstable neurons y = relu(z), and its bounds.

    z_j = P_j x + Q_j y + c_j   (y of earlier layers only),        margin_t = R_t x + S_t y + d_t

The neurons of the first layer that has any depend on pixels alone. Lines above them with a slope of their own for every
pixel, `Hulls`, may stand in place of the triangle's (see `hulls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcli.balls import Ball, reach, step
from robustcli.bounds.interval import row_error
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.types import Bounds
from robustcli.mip.encoding import encode
from robustcli.networks.network import Network


@dataclass(frozen=True)
class Functionals:
    """R affine functionals  pixels x + neurons y + constants.

    Args:
        pixels: [R, d]; neurons: [R, n]; constants: [R].
        sizes: sums of the absolute values they are made of, at most, [R].
        errors: how far rounding of these coefficients can move the value, [R].
    """

    pixels: Tensor
    neurons: Tensor
    constants: Tensor
    sizes: Tensor
    errors: Tensor

    def __len__(self) -> int:
        return len(self.constants)

    def take(self, index: Tensor) -> Functionals:
        """Some of the functionals."""
        return Functionals(*(getattr(self, field.name).index_select(0, index) for field in fields(self)))

    def plus(self, other: Functionals, weights: Tensor) -> Functionals:
        """Each functional plus weights [R] >= 0 times the only one of `other`."""
        column = weights.unsqueeze(1)
        return Functionals(
            self.pixels + column * other.pixels,
            self.neurons + column * other.neurons,
            *(getattr(self, name) + weights * getattr(other, name) for name in ("constants", "sizes", "errors")),
        )

    def joined(self, other: Functionals) -> Functionals:
        """These, then those of `other`."""
        return Functionals(*(torch.cat([getattr(part, f.name) for part in (self, other)]) for f in fields(self)))

    def both_signs(self) -> Functionals:
        """The functionals, then their negatives."""
        return self.joined(replace(self, pixels=-self.pixels, neurons=-self.neurons, constants=-self.constants))

    def to(self, dtype: torch.dtype) -> Functionals:
        """The same in another precision."""
        return Functionals(*(getattr(self, field.name).to(dtype) for field in fields(self)))


@dataclass(frozen=True)
class Hulls:
    """Lines above the n1 neurons of the first layer: relu(z_j) <= G_j x + k_j on the whole ball.

    Args:
        pixels: G, [n1, d]; or [R, n1, d], one set for each of the R functionals that are bounded.
        constants: k, [n1] or [R, n1].
        sizes: sums of the absolute values a line is made of, at most, like k.
    """

    pixels: Tensor
    constants: Tensor
    sizes: Tensor

    @property
    def count(self) -> int:
        """n1."""
        return self.pixels.shape[-2]

    def rows(self, weights: Tensor) -> Tensor:
        """Coefficients of sum_j weights_j G_j, [R, d] for weights [R, n1]."""
        return (weights.unsqueeze(-2) @ self.pixels).squeeze(-2)

    def at(self, x: Tensor) -> Tensor:
        """The lines at points x [R, d], [R, n1]."""
        return (x.unsqueeze(-2) @ self.pixels.mT).squeeze(-2) + self.constants

    def take(self, index: int) -> Hulls:
        """The lines for one of the functionals."""
        return Hulls(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, dtype: torch.dtype) -> Hulls:
        """The same in another precision."""
        return Hulls(*(getattr(self, field.name).to(dtype) for field in fields(self)))


@dataclass(frozen=True)
class System:
    """n unstable neurons ordered by layer, d pixels, T margins.

    Args:
        forms: z of the neurons, n functionals; margins: T functionals.
        lower, upper: l < 0 < u of z, [n].
        layers: the neurons of each hidden layer that has any, first to last.
        center, down, up: the point and its room, [d]; eps, [1]; p, boxed: of the ball.
        coordinates: where the d pixels stand in the input, [d].
        hidden_layers, units: layer and flat index of each neuron, [n].
        hulls: lines above the neurons of the first layer that stand in place of the triangle's.
    """

    forms: Functionals
    margins: Functionals
    lower: Tensor
    upper: Tensor
    layers: tuple[slice, ...]
    center: Tensor
    down: Tensor
    up: Tensor
    eps: Tensor
    p: float
    boxed: bool
    coordinates: Tensor
    hidden_layers: Tensor
    units: Tensor
    hulls: Hulls | None = None

    @classmethod
    def of(cls, network: Network, ball: Ball, layers: Sequence[Bounds], rows: Tensor) -> System:
        """The system of one point in float64.

        Args:
            network: float64.
            ball: one ball.
            layers: sound hidden bounds, each [1, *shape].
            rows: functionals of the logits, [T, K].
        Raises:
            RobustError: when the bounds contradict each other, or the forms disagree with the forward pass.
        """
        device = ball.center.device

        def tensor(values: object) -> Tensor:
            return torch.as_tensor(np.asarray(values), device=device)

        found = encode(network, ball, layers, rows)
        errors = rounding_errors(network, ball)
        hidden, units, where = tensor(found.layers), tensor(found.units), tensor(found.pixels)
        form_errors = torch.zeros(len(units), dtype=torch.float64, device=device)
        for layer, error in enumerate(errors[:-1]):
            here = hidden == layer
            form_errors[here] = error.flatten()[units[here]]
        down, up = (side.flatten()[where] for side in ball.room())
        center, upper = ball.center.flatten()[where], tensor(found.upper)
        largest = torch.cat([center.abs() + torch.maximum(down, up), upper])

        def functionals(coefficients: Tensor, constants: Tensor, errors: Tensor) -> Functionals:
            pixels, neurons = (part.contiguous() for part in coefficients.tensor_split([len(where)], dim=1))
            return Functionals(pixels, neurons, constants, coefficients.abs() @ largest + constants.abs(), errors)

        ends = (np.flatnonzero(np.diff(found.layers)) + 1).tolist()
        starts = [0, *ends, len(units)] if len(units) else [0]
        return cls(
            forms=functionals(tensor(found.forms.toarray()), tensor(found.form_constants), form_errors),
            margins=functionals(
                tensor(found.margins.toarray()),
                tensor(found.margin_constants),
                row_error(rows.unsqueeze(0), errors[-1])[0],
            ),
            lower=tensor(found.lower),
            upper=upper,
            layers=tuple(slice(a, b) for a, b in pairwise(starts)),
            center=center,
            down=down,
            up=up,
            eps=ball.eps,
            p=ball.p,
            boxed=ball.box is not None,
            coordinates=where,
            hidden_layers=hidden,
            units=units,
        )

    def to(self, dtype: torch.dtype) -> System:
        """The same system in another precision."""
        cast: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Functionals | Hulls) or (isinstance(value, Tensor) and value.is_floating_point()):
                cast[field.name] = value.to(dtype)
        return replace(self, **cast)

    @property
    def size(self) -> int:
        """Number of unstable neurons."""
        return len(self.lower)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the forms."""
        return self.lower.dtype

    def minimiser(self, rows: Tensor) -> Tensor:
        """Points of ball and box where rows [D, d] are smallest, [D, d]."""
        length = step(rows, self.down, self.up, self.eps, self.p, self.boxed)
        return self.center - rows.sign() * length

    def minimum(self, rows: Tensor) -> Tensor:
        """Lower bounds of rows [D, d] over ball and box, [D], up to rounding."""
        return rows @ self.center - reach(rows, self.down, self.up, self.eps, self.p, self.boxed)
