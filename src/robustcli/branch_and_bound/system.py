"""One point's network over its ball as dense linear forms in pixels x and unstable neurons y = relu(z), and its bounds.

    z_j = P_j x + Q_j y + c_j   (y of earlier layers only),        margin_t = R_t x + S_t y + d_t

A domain fixes the sign of some neurons: S_j = -1 for z_j >= 0, +1 for z_j <= 0, 0 for open. For every choice of lower
slopes at the open neurons and of multipliers beta >= 0 at the fixed ones (beta-CROWN, Wang et al. 2021, eq. 12),

    A = S_t + sum_{l above} B Q,     B = [A]_+ lower + [A]_- upper + beta S,
    margin_t  >=  d_t + B c + [A]_- gap + min over the ball of (R_t + B P) x        on the whole domain:

at a fixed neuron the ReLU is linear, and beta_j S_j z_j <= 0 there (weak duality). Both kinds of free numbers are one
tensor `theta`: a slope where the neuron is open, a multiplier where it is fixed.
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
from robustcli.bounds.relaxation import lines
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

    def to(self, dtype: torch.dtype) -> Functionals:
        """The same in another precision."""
        return Functionals(*(getattr(self, field.name).to(dtype) for field in fields(self)))


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
            if isinstance(value, Functionals) or (isinstance(value, Tensor) and value.is_floating_point()):
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


@dataclass(frozen=True)
class Phases:
    """What the signs of D domains make of the lines; [D, n] each.

    Args:
        signs: S, -1 / 0 / +1.
        free: 1 at open neurons, where theta is a slope.
        on: 1 where z >= 0 is fixed.
        upper, gap: lines above.
    """

    signs: Tensor
    free: Tensor
    on: Tensor
    upper: Tensor
    gap: Tensor

    @classmethod
    def of(cls, system: System, signs: Tensor) -> Phases:
        """From signs [D, n] (int8)."""
        around = lines(Bounds(system.lower, system.upper), system.lower)
        signs = signs.to(system.dtype)
        free, on = (signs == 0).to(signs.dtype), (signs < 0).to(signs.dtype)
        return cls(signs, free, on, free * around.upper + on, free * around.gap)

    def take(self, index: Tensor) -> Phases:
        """Some of the domains."""
        return Phases(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class Pass:
    """A backward pass: `above` A and `below` B, [D, n]; `rows` over the pixels, [D, d]; `value` without them, [D], of
    which `lost` is what the gaps cost."""

    above: Tensor
    below: Tensor
    rows: Tensor
    value: Tensor
    lost: Tensor


def backward(system: System, start: Functionals, phases: Phases, theta: Tensor) -> Pass:
    """The bound of a functional on each domain as a linear function of the pixels.

    Args:
        start: what is bounded, one for each of the D domains.
        theta: slopes and multipliers, [D, n].
    """
    lower, extra = theta * phases.free + phases.on, theta * phases.signs
    above = start.neurons.clone()
    below = torch.empty_like(above)
    lost = above.new_zeros(len(above))
    for layer in reversed(system.layers):
        a = above[:, layer]
        negative = a.clamp(max=0)
        lost += (negative * phases.gap[:, layer]).sum(1)
        b = torch.addcmul(extra[:, layer], a - negative, lower[:, layer]).addcmul_(negative, phases.upper[:, layer])
        below[:, layer] = b
        if layer.start:
            above[:, : layer.start] += b @ system.forms.neurons[layer, : layer.start]
    rows = torch.addmm(start.pixels, below, system.forms.pixels)
    return Pass(above, below, rows, start.constants + below @ system.forms.constants + lost, lost)


def forward(system: System, phases: Phases, theta: Tensor, above: Tensor, x: Tensor) -> Tensor:
    """z of every neuron when each relaxed ReLU sits on the line that the backward pass took: the gradient of the bound

    d bound / d A_j = y_j,   d bound / d B_j = z_j        at the minimiser x [D, d] (envelope theorem), [D, n].
    """
    lower = theta * phases.free + phases.on
    z = torch.addmm(system.forms.constants, x, system.forms.pixels.T)
    slope = torch.where(above >= 0, lower, phases.upper)
    shift = phases.gap * (above < 0)
    y = torch.empty_like(z)
    for layer in system.layers:
        here = z[:, layer]
        if layer.start:
            here += y[:, : layer.start] @ system.forms.neurons[layer, : layer.start].T
        y[:, layer] = torch.addcmul(shift[:, layer], slope[:, layer], here)
    return z


def proved(system: System, start: Functionals, signs: Tensor, theta: Tensor) -> Tensor:
    """Lower bounds that hold in spite of rounding, [D]; -inf where they are no number.

    A pass in n + d terms is off by at most gamma times the sum of the absolute values of all its products; that sum is
    at most |B| H + |[A]_-| gap + M with H and M the sizes of forms and functionals (see `bounds.backward`, whose
    argument this is), and the coefficients themselves are off by `errors`. What is below the number range is lost
    whole: at most `tiny` of every coefficient and product.

    Args:
        system: float64.
        start: D functionals.
        signs: S, [D, n] int8.
        theta: of any precision.
    """
    number = torch.finfo(system.dtype)
    roundings = 4 * (system.size + len(system.center)) + 256
    phases = Phases.of(system, signs)
    theta = theta.to(system.dtype).clamp(min=0)
    found = backward(system, start, phases, torch.where(signs == 0, theta.clamp(max=1), theta))
    size = found.below.abs() @ system.forms.sizes - found.lost + start.sizes
    size = size + found.rows.abs() @ (system.center.abs() + system.eps)
    error = found.below.abs() @ system.forms.errors + start.errors
    largest = (system.center.abs() + system.eps).sum() + system.upper.sum()
    lost = roundings * number.tiny * (1 + found.below.abs().sum(1)) * (1 + largest)
    slack = 2 * (roundings * number.eps * size + error + lost)
    bound = found.value + system.minimum(found.rows) - slack
    return torch.where(bound.isnan(), -torch.inf, bound)
