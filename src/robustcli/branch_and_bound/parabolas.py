"""Parabolas above the ReLUs of the first layer, and what bounds through them are made of.

A neuron z = W t + c of the first layer, t in [-1, 1]^d the pixels in units of their room. For any G and any d >= 0

    relu(z) <= G t + k + d z^2,
    k = max( max over z <= 0 of -G t - d z^2,  max over z >= 0 of z - G t - d z^2 ).

The bounds of z and the box both sharpen k, for slopes

    G_j = m_j W_j - r_j tau o |W_j|,     0 <= r_j <= min(m_j, 1 - m_j),   -1 <= tau <= 1,

between 0 and W_j: the triangle's share m, leaning at each pixel towards the side on which the neurons are bounded. The
norms of what lies beside W are affine in tau, |r (W -+ tau o |W|)|_1 = r (|W|_1 -+ W tau), so that many functionals are
bounded by a few products with W and |W|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robustcli.branch_and_bound.passes import Phases
from robustcli.branch_and_bound.system import Functionals, System

LEAN, CURVE = 0.01, -2.0  # to begin with
CURVES, WEIGHTS = (-12.0, 6.0), (-6.0, 6.0)  # logarithms
FLOOR = 1e-5  # of b: every pixel has a weight
TINY = 1e-12  # no division by 0


@dataclass(frozen=True)
class Multipliers:
    """The free numbers of R bounds.

    Args:
        slopes: below open neurons, multipliers >= 0 of fixed ones, [R, n].
        shares, leans: m and r, [R, n1]; tilts: tau, [R, d].
        curves: logarithms of d |W|_1, [R, n1].
        weights: logarithms of b as a multiple of e |W|, [R, d].
        against: weights of the functional that is not positive, in units of the sizes, [R].
        vectors: eigenvectors to go on from, [R, n1].
    """

    slopes: Tensor
    shares: Tensor
    leans: Tensor
    tilts: Tensor
    curves: Tensor
    weights: Tensor
    against: Tensor
    vectors: Tensor

    @classmethod
    def first(cls, system: System, count: int) -> Multipliers:
        """The triangle's lines and flat parabolas."""
        first = system.layers[0]
        share = (system.upper / (system.upper - system.lower))[first].to(torch.float32).repeat(count, 1)
        pixel = share.new_zeros(count, len(system.center))
        slopes = torch.where(system.upper > -system.lower, 0.75, 0.25).to(torch.float32).repeat(count, 1)
        return cls(
            slopes=slopes,
            shares=share,
            leans=torch.full_like(share, LEAN),
            tilts=pixel,
            curves=torch.full_like(share, CURVE),
            weights=pixel,
            against=share.new_zeros(count),
            vectors=torch.ones_like(share) / share.shape[1] ** 0.5,
        ).inside(torch.zeros_like(slopes[0]))

    def take(self, index: Tensor | slice) -> Multipliers:
        """Those of some of the bounds."""
        return Multipliers(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Multipliers]) -> Multipliers:
        """Several batches as one."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def to(self, dtype: torch.dtype) -> Multipliers:
        """The same in another precision."""
        return Multipliers(*(getattr(self, field.name).to(dtype) for field in fields(self)))

    def with_fixed(self, newly: Tensor) -> Multipliers:
        """What was a slope becomes a multiplier, of 0, where neurons are newly fixed, [n] bool."""
        return replace(self, slopes=torch.where(newly, 0.0, self.slopes))

    def inside(self, signs: Tensor) -> Multipliers:
        """The nearest that are allowed."""
        shares = self.shares.clamp(0, 1)
        return replace(
            self,
            slopes=torch.where(signs == 0, self.slopes.clamp(0, 1), self.slopes.clamp(min=0)),
            shares=shares,
            leans=torch.minimum(self.leans.clamp(min=0), torch.minimum(shares, 1 - shares)),
            tilts=self.tilts.clamp(-1, 1),
            curves=self.curves.clamp(*CURVES),
            weights=self.weights.clamp(*WEIGHTS),
            against=self.against.clamp(min=0),
        )


@dataclass(frozen=True)
class Terms:
    """What R bounds are made of, before the quadratic form: bound = value - lambda sum b.

    Args:
        value: [R].
        squares: e, [R, n1]; weights: b, [R, d].
        below: coefficients of z, [R, n]; negative: -[A]_- at open neurons of the first layer, [R, n1].
        lost: what the gaps of triangles cost, [R].
        start: with the multiple of `against`.
    """

    value: Tensor
    squares: Tensor
    weights: Tensor
    below: Tensor
    negative: Tensor
    lost: Tensor
    start: Functionals


def terms(system: System, start: Functionals, signs: Tensor, chosen: Multipliers, against: Functionals | None) -> Terms:
    """A backward pass in coordinates t, of any precision, with parabolas above the first layer and triangles beyond.

    Args:
        system: in coordinates t (`hulls.in_room`).
        start: R functionals; against: one that is not positive, or None.
        signs: of neurons that are fixed in all of them, [n] int8.
        chosen: allowed numbers.
    """
    if against is not None:
        start = start.plus(against, chosen.against * start.sizes / against.sizes.clamp(min=TINY))
    phases = Phases.of(system, signs.unsqueeze(0))
    first = system.layers[0]
    lower, extra = chosen.slopes * phases.free + phases.on, chosen.slopes * phases.signs
    above, lost = start.neurons, torch.zeros_like(start.constants)
    below: list[Tensor] = []
    for layer in reversed(system.layers):
        a = above[:, layer]
        negative = a.clamp(max=0)
        through = phases.on[:, layer] if layer == first else phases.upper[:, layer]
        b = (a - negative) * lower[:, layer] + extra[:, layer] + negative * through
        below.insert(0, b)
        if layer != first:
            lost = lost + (negative * phases.gap[:, layer]).sum(1)
            above = above[:, : layer.start] + b @ system.forms.neurons[layer, : layer.start]
    every, open_ = torch.cat(below, dim=1), -negative * phases.free[:, first]
    curve, constants = parabolas(system, chosen)
    whole, offsets = system.forms.pixels[first], system.forms.constants[first]
    squares = open_ * curve
    along = torch.cat([below[0] - open_ * chosen.shares - 2 * squares * offsets, *below[1:]], dim=1)
    rows = start.pixels + along @ system.forms.pixels + chosen.tilts * ((open_ * chosen.leans) @ whole.abs())
    value = start.constants + lost + every @ system.forms.constants
    value = value - (open_ * constants + squares * offsets.square()).sum(1) - rows.abs().sum(1)
    weights = chosen.weights.exp() * (squares @ whole.abs() + FLOOR)
    return Terms(value, squares, weights, every, open_, lost, start)


def parabolas(system: System, chosen: Multipliers) -> tuple[Tensor, Tensor]:
    """d and k of every neuron of the first layer, [R, n1]: each side's maximum over z and over what lies beside W."""
    first = system.layers[0]
    whole, offsets = system.forms.pixels[first], system.forms.constants[first]
    norm, errors = whole.abs().sum(1), system.forms.errors[first]
    lower, upper = system.lower[first].clamp(max=0) - errors, system.upper[first].clamp(min=0) + errors
    curve = chosen.curves.exp() / norm.clamp(min=TINY)
    leaning = chosen.tilts @ whole.T
    off, on = chosen.shares - chosen.leans, 1 - chosen.shares - chosen.leans
    zero = torch.zeros_like(off)
    at = torch.minimum(torch.maximum(-off / (2 * curve), lower), zero)
    below = -off * (at - offsets) - curve * at.square() + chosen.leans * (norm - leaning)
    at = torch.maximum(torch.minimum(on / (2 * curve), upper), zero)
    beyond = on * (at - offsets) + offsets - curve * at.square() + chosen.leans * (norm + leaning)
    return curve, torch.maximum(below, beyond)
