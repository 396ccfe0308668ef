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
from robustcli.bounds.relaxation import adaptive, lines
from robustcli.bounds.rounding import rounding_errors
from robustcli.bounds.types import Bounds
from robustcli.mip.encoding import encode
from robustcli.networks.network import Network


@dataclass(frozen=True)
class System:
    """n unstable neurons ordered by layer, d pixels, T margins.

    Args:
        pixels: P, [n, d]; neurons: Q, [n, n]; constants: c, [n].
        lower, upper: l < 0 < u, [n].
        slope, gap: of the lines above the ReLUs, [n]; start: adaptive slopes of the lines below, [n].
        layers: the neurons of each hidden layer that has any, first to last.
        margin_pixels: R, [T, d]; margin_neurons: S, [T, n]; margin_constants: d, [T].
        center, down, up: the point and its room, [d]; eps, [1]; p, boxed: of the ball.
        coordinates: where the d pixels stand in the input, [d].
        hidden_layers, units: layer and flat index of each neuron, [n].
        errors, margin_errors: how far rounding of the forms themselves can move z and the margins, [n] and [T].
    """

    pixels: Tensor
    neurons: Tensor
    constants: Tensor
    lower: Tensor
    upper: Tensor
    slope: Tensor
    gap: Tensor
    start: Tensor
    layers: tuple[slice, ...]
    margin_pixels: Tensor
    margin_neurons: Tensor
    margin_constants: Tensor
    center: Tensor
    down: Tensor
    up: Tensor
    eps: Tensor
    p: float
    boxed: bool
    coordinates: Tensor
    hidden_layers: Tensor
    units: Tensor
    errors: Tensor
    margin_errors: Tensor

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
        count = len(found.pixels)
        errors = rounding_errors(network, ball)
        hidden, units, where = tensor(found.layers), tensor(found.units), tensor(found.pixels)
        neuron_errors = torch.zeros(len(units), dtype=torch.float64, device=device)
        for layer, error in enumerate(errors[:-1]):
            here = hidden == layer
            neuron_errors[here] = error.flatten()[units[here]]
        bounds = Bounds(tensor(found.lower), tensor(found.upper))
        around = lines(bounds, adaptive(bounds))
        ends = np.flatnonzero(np.diff(found.layers)) + 1
        starts = [0, *ends.tolist(), len(units)] if len(units) else [0]
        forms, margins = tensor(found.forms.toarray()), tensor(found.margins.toarray())
        down, up = (side.flatten()[where] for side in ball.room())
        return cls(
            pixels=forms[:, :count].contiguous(),
            neurons=forms[:, count:].contiguous(),
            constants=tensor(found.form_constants),
            lower=bounds.lower,
            upper=bounds.upper,
            slope=around.upper,
            gap=around.gap,
            start=around.lower,
            layers=tuple(slice(a, b) for a, b in pairwise(starts)),
            margin_pixels=margins[:, :count].contiguous(),
            margin_neurons=margins[:, count:].contiguous(),
            margin_constants=tensor(found.margin_constants),
            center=ball.center.flatten()[where],
            down=down,
            up=up,
            eps=ball.eps,
            p=ball.p,
            boxed=ball.box is not None,
            coordinates=where,
            hidden_layers=hidden,
            units=units,
            errors=neuron_errors,
            margin_errors=row_error(rows.unsqueeze(0), errors[-1])[0],
        )

    def to(self, dtype: torch.dtype) -> System:
        """The same system in another precision."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        cast: dict[str, Any] = {
            k: v.to(dtype) for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()
        }
        return replace(self, **cast)

    @property
    def size(self) -> int:
        """Number of unstable neurons."""
        return len(self.lower)

    def magnitudes(self) -> tuple[Tensor, Tensor]:
        """Sums of the absolute values that z [n] and the margins [T] are made of, at most."""
        x = self.center.abs() + torch.maximum(self.down, self.up)
        y = self.upper
        z = self.pixels.abs() @ x + self.neurons.abs() @ y + self.constants.abs()
        margins = self.margin_pixels.abs() @ x + self.margin_neurons.abs() @ y + self.margin_constants.abs()
        return z, margins

    def minimiser(self, rows: Tensor) -> Tensor:
        """Points of ball and box where rows [D, d] are smallest, [D, d]."""
        length = step(rows, self.down, self.up, self.eps, self.p, self.boxed)
        return self.center - rows.sign() * length

    def minimum(self, rows: Tensor) -> Tensor:
        """Lower bounds of rows [D, d] over ball and box, [D], up to rounding."""
        return rows @ self.center - reach(rows, self.down, self.up, self.eps, self.p, self.boxed)


@dataclass(frozen=True)
class Phases:
    """What the signs of D domains make of the lines: theta counts where `free`; [D, n] each.

    Args:
        signs: S, -1 / 0 / +1.
        free: 1 at open neurons.
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
        signs = signs.to(system.slope.dtype)
        free, on = (signs == 0).to(signs.dtype), (signs < 0).to(signs.dtype)
        return cls(signs, free, on, free * system.slope + on, free * system.gap)

    def take(self, index: Tensor) -> Phases:
        """Some of the domains."""
        return Phases(self.signs[index], self.free[index], self.on[index], self.upper[index], self.gap[index])


@dataclass(frozen=True)
class Pass:
    """A backward pass: `above` A and `below` B, [D, n]; `rows` over the pixels, [D, d]; `value` without them, [D]."""

    above: Tensor
    below: Tensor
    rows: Tensor
    value: Tensor
    lost: Tensor


def backward(system: System, targets: Tensor, phases: Phases, theta: Tensor) -> Pass:
    """The bound of every domain as a linear function of the pixels.

    Args:
        targets: which margin, [D].
        theta: slopes and multipliers, [D, n].
    """
    lower, extra = theta * phases.free + phases.on, theta * phases.signs
    above = system.margin_neurons.index_select(0, targets)
    below = torch.empty_like(above)
    lost = above.new_zeros(len(above))
    for layer in reversed(system.layers):
        a = above[:, layer]
        negative = a.clamp(max=0)
        lost += (negative * phases.gap[:, layer]).sum(1)
        b = torch.addcmul(extra[:, layer], a - negative, lower[:, layer]).addcmul_(negative, phases.upper[:, layer])
        below[:, layer] = b
        if layer.start:
            above[:, : layer.start] += b @ system.neurons[layer, : layer.start]
    rows = torch.addmm(system.margin_pixels.index_select(0, targets), below, system.pixels)
    value = system.margin_constants.index_select(0, targets) + below @ system.constants + lost
    return Pass(above, below, rows, value, lost)


def forward(system: System, phases: Phases, theta: Tensor, above: Tensor, x: Tensor) -> Tensor:
    """z of every neuron when each relaxed ReLU sits on the line that the backward pass took: the gradient of the bound

    d bound / d A_j = y_j,   d bound / d B_j = z_j        at the minimiser x [D, d] (envelope theorem), [D, n].
    """
    lower = theta * phases.free + phases.on
    z = torch.addmm(system.constants, x, system.pixels.T)
    slope = torch.where(above >= 0, lower, phases.upper)
    shift = phases.gap * (above < 0)
    y = torch.empty_like(z)
    for layer in system.layers:
        here = z[:, layer]
        if layer.start:
            here += y[:, : layer.start] @ system.neurons[layer, : layer.start].T
        y[:, layer] = torch.addcmul(shift[:, layer], slope[:, layer], here)
    return z


class Proof:
    """Bounds in float64 that hold in spite of rounding.

    A pass in n + d terms is off by at most gamma times the sum of the absolute values of all its products; that sum is
    at most |B| H + |[A]_-| gap + M with H, M = `System.magnitudes` (see `bounds.backward`, whose argument this is), and
    the forms themselves are off by `errors`.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        number = torch.finfo(torch.float64)
        roundings = 4 * (system.size + len(system.center)) + 256
        self.gamma, self.tiny = roundings * number.eps, roundings * number.tiny
        self.values, self.margins = system.magnitudes()
        self.inputs = system.center.abs() + system.eps

    def lower(self, targets: Tensor, signs: Tensor, theta: Tensor) -> Tensor:
        """Proved lower bounds of the margins on D domains, [D]; arguments as in `backward`, theta of any precision."""
        system, phases = self.system, Phases.of(self.system, signs)
        theta = theta.to(torch.float64).clamp(min=0)
        theta = torch.where(signs == 0, theta.clamp(max=1), theta)
        found = backward(system, targets, phases, theta)
        size = found.below.abs() @ self.values - found.lost + self.margins.index_select(0, targets)
        size = size + found.rows.abs() @ self.inputs
        error = found.below.abs() @ system.errors + system.margin_errors.index_select(0, targets)
        bound = found.value + system.minimum(found.rows) - 2 * (self.gamma * size + error) - self.tiny
        return torch.where(bound.isnan(), -torch.inf, bound)
