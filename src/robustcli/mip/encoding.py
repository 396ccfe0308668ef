"""The network over one ball as a compact mixed-integer set: pixels and unstable neurons only.

Given sound bounds l <= z <= u on every pre-activation z, a neuron with l >= 0 is the identity, one with u <= 0 is zero;
both are substituted exactly (Tjeng et al. 2019, section 4.1). What remains is one variable y = max(z, 0) per unstable
neuron and, for its z and for every margin, an affine form in pixels and earlier y:

    z_j = forms_j . v + form_constant_j,     margin_t = margins_t . v + margin_constant_t,     v = (pixels, y)

The forms come from pushing rows backward through the affine blocks until they meet an unstable neuron or the input.
Pixels that cannot move are constants; pixels and neurons that no form uses are left out. The forms hold for any l_p
ball; the ranges of the pixels describe an linf ball whole, of the others only the box around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.types import Bounds
from robustcli.errors import RobustError
from robustcli.mip.problem import Vector
from robustcli.networks.network import Network

WIDEN = 1e-9
"""Hidden bounds are moved outward by this share of the larger: the set stays an outer one under rounding."""
ROW_BUDGET = 16_000_000
"""Numbers held at once while rows are pushed backward; more rows go in chunks."""


@dataclass(frozen=True)
class Encoding:
    """The compact set of one point. P pixels, n unstable neurons (ordered by layer), T margins.

    Args:
        center: the point, all d coordinates.
        pixels: [P] coordinates that may move and matter; pixel_lower, pixel_upper: [P] their range over the ball.
        layers, units: [n] hidden layer (0-based) and flat index of each unstable neuron.
        lower, upper: [n] bounds l < 0 < u of its pre-activation, widened.
        forms: [n, P + n], form_constants: [n].
        margins: [T, P + n], margin_constants: [T].
        unstable: unstable neurons per hidden layer, unused ones included.
    """

    center: Vector
    pixels: NDArray[np.intp]
    pixel_lower: Vector
    pixel_upper: Vector
    layers: NDArray[np.intp]
    units: NDArray[np.intp]
    lower: Vector
    upper: Vector
    forms: sparse.csr_array
    form_constants: Vector
    margins: sparse.csr_array
    margin_constants: Vector
    unstable: tuple[int, ...]

    def neurons(self, x: Vector) -> tuple[Vector, Vector]:
        """Pre-activations z [n] and values v = (pixels, y) [P + n] of the unstable neurons at an input x [d]."""
        count = len(self.pixels)
        z, v = np.zeros(len(self.units)), np.zeros(count + len(self.units))
        v[:count] = x[self.pixels]
        for layer in np.unique(self.layers):
            here = np.flatnonzero(self.layers == layer)
            z[here] = self.forms[here] @ v + self.form_constants[here]
            v[count + here] = np.maximum(z[here], 0.0)
        return z, v

    def margins_at(self, x: Vector) -> Vector:
        """The T margins at an input x [d], as the encoding computes them."""
        return self.margins @ self.neurons(x)[1] + self.margin_constants

    def in_units(self) -> Encoding:
        """The same set with every neuron counted in units of its own range (a power of two, so nothing is rounded).

        Solvers have absolute tolerances and drop tiny coefficients: on neurons of size 1e-4 that cuts off real inputs.
        """
        unit = np.exp2(np.ceil(np.log2(np.maximum(-self.lower, self.upper))))
        columns = sparse.diags_array(np.concatenate([np.ones(len(self.pixels)), unit]))
        return replace(
            self,
            lower=self.lower / unit,
            upper=self.upper / unit,
            forms=sparse.csr_array(sparse.diags_array(1 / unit) @ self.forms @ columns),
            form_constants=self.form_constants / unit,
            margins=sparse.csr_array(self.margins @ columns),
        )

    def sizes(self) -> Vector:
        """[T] the sum of absolute values each margin is made of at most: what relative precision refers to."""
        pixels = np.maximum(np.abs(self.pixel_lower), np.abs(self.pixel_upper))
        return abs(self.margins) @ np.concatenate([pixels, self.upper]) + np.abs(self.margin_constants)

    def input(self, pixels: Vector) -> Vector:
        """The input [d] whose movable coordinates are `pixels` [P]; the others stay at the centre."""
        x = self.center.copy()
        x[self.pixels] = pixels
        return x


def encode(network: Network, ball: Ball, bounds: Sequence[Bounds], rows: Tensor) -> Encoding:
    """The compact set of one point and the margins `rows @ logits` over it.

    Args:
        network: in float64.
        ball: one ball.
        bounds: sound pre-activation bounds, one per hidden layer, each [1, *block.out_shape].
        rows: [T, K].
    Raises:
        RobustError: when the bounds contradict each other, or the encoding disagrees with the forward pass.
    """
    with torch.no_grad():
        back = _Backward(network, ball, bounds)
        encoding = back.run(rows.to(network.dtype))
        _check(network, ball, rows, encoding)
    return encoding


class _Backward:
    """Pushes rows from their layer back to pixels and unstable neurons."""

    def __init__(self, network: Network, ball: Ball, bounds: Sequence[Bounds]) -> None:
        self.blocks = network.blocks
        self.offsets = [block.offset() for block in self.blocks]
        widen = [WIDEN * torch.maximum(_flat(layer.lower).abs(), _flat(layer.upper).abs()) for layer in bounds]
        self.lower = [_flat(layer.lower) - more for layer, more in zip(bounds, widen, strict=True)]
        self.upper = [_flat(layer.upper) + more for layer, more in zip(bounds, widen, strict=True)]
        if not all(
            bool((l <= u).all() & (u - l).isfinite().all()) for l, u in zip(self.lower, self.upper, strict=True)
        ):
            raise RobustError(
                "a pre-activation has an upper bound below its lower bound, or no finite ones",
                "please report this point",
            )
        # Phases follow the bounds as given: only a proved sign may be substituted.
        self.active = [(_flat(layer.lower) >= 0).to(network.dtype) for layer in bounds]
        self.unstable = [((_flat(layer.lower) < 0) & (_flat(layer.upper) > 0)).nonzero().squeeze(1) for layer in bounds]
        down, up = ball.room()
        low, high = ball.bounding_box()
        self.center = _flat(ball.center)
        self.moves = (_flat(down) > 0) | (_flat(up) > 0)
        self.low, self.high = _flat(low), _flat(high)
        widest = max(max(block.units for block in self.blocks), self.center.numel())
        self.chunk = max(1, ROW_BUDGET // widest)

    def run(self, rows: Tensor) -> Encoding:
        """Layer by layer from the last: only neurons that some form above uses get a form of their own."""
        depth = len(self.unstable)
        top, top_constant = self.push(rows, depth)
        needed: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)] * depth
        forms: list[dict[int, sparse.csr_array]] = [{} for _ in range(depth)]
        constants: list[Vector] = [np.zeros(0)] * depth
        for layer in range(depth - 1, -1, -1):
            above = [top[layer]] + [forms[k][layer] for k in range(layer + 1, depth)]
            used = np.unique(np.concatenate([part.nonzero()[1] for part in above]))
            needed[layer] = used
            units = self.unstable[layer][torch.as_tensor(used)]
            start = torch.zeros(len(used), self.blocks[layer].units, dtype=rows.dtype, device=rows.device)
            start[torch.arange(len(used)), units] = 1.0
            forms[layer], constants[layer] = self.push(start, layer)
        return self.assemble(needed, forms, constants, top, top_constant)

    def push(self, rows: Tensor, layer: int) -> tuple[dict[int, sparse.csr_array], Vector]:
        """Rows [R, units of block `layer`] as forms in earlier unstable neurons (keys 0, 1, ...) and pixels (-1)."""
        parts: dict[int, list[sparse.csr_array]] = {k: [] for k in range(-1, layer)}
        constants: list[Vector] = []
        for some in rows.split(self.chunk) if len(rows) else (rows,):
            here, constant = some.view(-1, *self.blocks[layer].out_shape), some.new_zeros(len(some))
            for k in range(layer, -1, -1):
                constant = constant + (here * self.offsets[k]).flatten(1).sum(1)
                flat = self.blocks[k].adjoint(here).flatten(1) if len(here) else here.new_zeros(0, self.inputs(k))
                if k > 0:
                    parts[k - 1].append(_sparse(flat[:, self.unstable[k - 1]]))
                    here = (flat * self.active[k - 1]).view(-1, *self.blocks[k - 1].out_shape)
            constant = constant + flat @ torch.where(self.moves, 0.0, self.center)
            parts[-1].append(_sparse(flat * self.moves))
            constants.append(np.asarray(constant.cpu(), dtype=np.float64))
        return {k: sparse.csr_array(sparse.vstack(some)) for k, some in parts.items()}, np.concatenate(constants)

    def inputs(self, layer: int) -> int:
        return self.center.numel() if layer == 0 else self.blocks[layer - 1].units

    def assemble(
        self,
        needed: list[NDArray[np.intp]],
        forms: list[dict[int, sparse.csr_array]],
        constants: list[Vector],
        top: dict[int, sparse.csr_array],
        top_constant: Vector,
    ) -> Encoding:
        """Common columns for all forms: used pixels, then used neurons layer by layer."""
        everything = [top, *forms]
        pixels = np.unique(np.concatenate([part[-1].nonzero()[1] for part in everything])).astype(np.intp)

        def columns(part: dict[int, sparse.csr_array]) -> sparse.csr_array:
            count = part[-1].shape[0]
            blocks = [part[-1][:, pixels]]
            for layer, used in enumerate(needed):
                empty = sparse.csr_array((count, len(used)))
                blocks.append(part[layer][:, used] if layer in part else empty)
            return sparse.csr_array(sparse.hstack(blocks, format="csr"))

        units = [np.asarray(self.unstable[k].cpu())[used] for k, used in enumerate(needed)]
        low, high = np.asarray(self.low.cpu())[pixels], np.asarray(self.high.cpu())[pixels]
        pick = [
            (np.asarray(low.cpu())[unit], np.asarray(up.cpu())[unit])
            for low, up, unit in zip(self.lower, self.upper, units, strict=True)
        ]
        rows = [columns(part) for part in forms]
        width = len(pixels) + sum(map(len, needed))
        return Encoding(
            center=np.asarray(self.center.cpu(), dtype=np.float64),
            pixels=pixels,
            pixel_lower=np.nextafter(low, -np.inf),
            pixel_upper=np.nextafter(high, np.inf),
            layers=np.repeat(np.arange(len(needed)), [len(used) for used in needed]),
            units=_joined(units, np.intp),
            lower=_joined([pair[0] for pair in pick], np.float64),
            upper=_joined([pair[1] for pair in pick], np.float64),
            forms=sparse.csr_array(sparse.vstack(rows, format="csr")) if rows else sparse.csr_array((0, width)),
            form_constants=_joined(constants, np.float64),
            margins=columns(top),
            margin_constants=top_constant,
            unstable=tuple(len(index) for index in self.unstable),
        )


def _check(network: Network, ball: Ball, rows: Tensor, encoding: Encoding) -> None:
    """The encoded function must be the evaluated one: compare at the centre and at the two ends of the ball.

    There the unstable neurons must also lie within their bounds: a set that misses an input proves nothing.
    """
    diagonal = torch.ones_like(ball.center).unsqueeze(1)
    ends = ball.minimiser(torch.cat([diagonal, -diagonal], dim=1))[0]
    points = torch.cat([ball.center, ends])
    truth = (network(points) @ rows.to(network.dtype).T).cpu().numpy()
    inputs = points.flatten(1).cpu().numpy()
    ours = np.stack([encoding.margins_at(x) for x in inputs])
    for z, _ in map(encoding.neurons, inputs):
        if not (np.all(encoding.lower <= z) and np.all(z <= encoding.upper)):
            raise RobustError("a pre-activation lies outside its bounds", "please report this point")
    gap = np.abs(truth - ours).max(initial=0.0)
    if not gap <= 1e-6 * (1 + np.abs(truth).max(initial=0.0)):
        raise RobustError(f"the encoding differs from the forward pass by {gap:.3g}", "please report this point")


def _flat(values: Tensor) -> Tensor:
    """One row [1, ...] as a vector."""
    return values.detach().flatten(1)[0]


def _sparse(dense: Tensor) -> sparse.csr_array:
    """Exact zeros are dropped, nothing else."""
    return sparse.csr_array(dense.cpu().numpy())


def _joined(parts: list[NDArray], kind: type) -> NDArray:
    return np.concatenate([np.zeros(0, dtype=kind), *parts]).astype(kind)
