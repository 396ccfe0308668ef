"""Bounds of domains on the compact forms of one point (`system`): one backward pass, its gradient, its proof.

A domain fixes the sign of some neurons: S_j = -1 for z_j >= 0, +1 for z_j <= 0, 0 for open. For every choice of lower
slopes at the open neurons and of multipliers beta >= 0 at the fixed ones (beta-CROWN, Wang et al. 2021, eq. 12),

    A = S_t + sum_{l above} B Q,     B = [A]_+ lower + [A]_- upper + beta S,
    margin_t  >=  d_t + B c + [A]_- gap + min over the ball of (R_t + B P) x        on the whole domain:

at a fixed neuron the ReLU is linear, and beta_j S_j z_j <= 0 there (weak duality). Both kinds of free numbers are one
tensor `theta`: a slope where the neuron is open, a multiplier where it is fixed. Where the system has hulls, their
lines G x + k take the place of upper z + gap at the open neurons of the first layer: [A]_- G joins the rows, [A]_- k
the value.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustcli.bounds.relaxation import lines
from robustcli.bounds.types import Bounds
from robustcli.branch_and_bound.system import Functionals, Hulls, System


@dataclass(frozen=True)
class Phases:
    """What the signs of D domains make of the lines; [D, n] each.

    Args:
        signs: S, -1 / 0 / +1.
        free: 1 at open neurons, where theta is a slope.
        on: 1 where z >= 0 is fixed.
        upper, gap: lines above; 0 at open neurons with hulls.
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
        triangle = free
        if system.hulls is not None:
            triangle = free.clone()
            triangle[:, : system.hulls.count] = 0
        return cls(signs, free, on, triangle * around.upper + on, triangle * around.gap)

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
    value = start.constants + below @ system.forms.constants + lost
    if system.hulls is not None:
        weights = hulled(system.hulls, phases, above)
        rows, value = rows + system.hulls.rows(weights), value + (weights * system.hulls.constants).sum(1)
    return Pass(above, below, rows, value, lost)


def hulled(hulls: Hulls, phases: Phases, above: Tensor) -> Tensor:
    """The weights [A]_- of the hulls' lines, [D, n1]; 0 at fixed neurons."""
    return above[:, : hulls.count].clamp(max=0) * phases.free[:, : hulls.count]


def forward(system: System, phases: Phases, theta: Tensor, above: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """z and y of every neuron when each relaxed ReLU sits on the line that the backward pass took: the bound's gradient

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
        if system.hulls is not None and not layer.start:
            taken = (above[:, layer] < 0) & (phases.free[:, layer] > 0)
            y[:, layer] = torch.where(taken, system.hulls.at(x), y[:, layer])
    return z, y


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
    if system.hulls is not None:
        size = size + (hulled(system.hulls, phases, found.above).abs() * system.hulls.sizes).sum(1)
    error = found.below.abs() @ system.forms.errors + start.errors
    largest = (system.center.abs() + system.eps).sum() + system.upper.sum()
    lost = roundings * number.tiny * (1 + found.below.abs().sum(1)) * (1 + largest)
    slack = 2 * (roundings * number.eps * size + error + lost)
    bound = found.value + system.minimum(found.rows) - slack
    return torch.where(bound.isnan(), -torch.inf, bound)
