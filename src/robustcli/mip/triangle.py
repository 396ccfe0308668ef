"""The triangle relaxation as a linear program: the tightest convex relaxation that takes every ReLU on its own.

In pixels and the unstable neurons of the compact `encoding`, y = max(z, 0) and s = max(-z, 0) with z affine in both,

    y >= 0,    y >= z,    y <= u (z - l) / (u - l)                      (Ehlers 2017; 003, eq. 4)
    the same:  y - s = z,    y, s >= 0,    -l y + u s <= -u l           half the nonzeros: z stands in one row

which is the formulation `slack` of the MIP with its binary relaxed and eliminated. The linf ball is the range of the
pixels. For l1, x = x0 + up - down with up, down >= 0 in the room of the box and sum (up + down) <= eps. An l2 ball
needs a cone program: alpha-CROWN stands in for it.

No answer of the solver is a proof. Its multipliers of the rows y - s = z are rows B acting on z; what is returned is
the bound of `bounds.lagrangian` for them, in the network's own weights and safe against rounding. At an optimum it
equals the value of the program.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.lagrangian import lagrangian
from robustcli.bounds.types import Bounds
from robustcli.errors import UsageError
from robustcli.mip.encoding import Encoding, encode
from robustcli.mip.highs import LinearPrograms
from robustcli.mip.problem import Problem, Size, Vector
from robustcli.networks.network import Network


@dataclass(frozen=True)
class LpOutcome:
    """What the linear programs of one point prove.

    Args:
        margins: lower bounds on rows @ logits over the ball, [T]; -inf where none was asked for or found.
        minimisers: where the relaxed margins are smallest, points of ball and box, [T, *input_shape]; the centre where
            none was found. Good starts for an attack.
        solved: programs solved to the end.
        size: of the program.
        seconds: encoding, solving and proving.
    """

    margins: Tensor
    minimisers: Tensor
    solved: int
    size: Size
    seconds: float


@torch.no_grad()
def triangle(
    network: Network,
    ball: Ball,
    rows: Tensor,
    layers: Sequence[Bounds],
    *,
    seconds: float | None = None,
    targets: Sequence[int] | None = None,
) -> LpOutcome:
    """Lower bounds on rows @ logits over one ball: one linear program each, started from the one before.

    Args:
        network: float64.
        ball: one ball, p = 1 or inf.
        rows: functionals of the logits, [1, T, K].
        layers: sound bounds on the hidden layers, each [1, *shape].
        seconds: for all of them together; None for no limit.
        targets: which rows, in this order; None for all.
    Raises:
        UsageError: for another p.
        SolverError: when HiGHS is not installed.
        RobustError: when the bounds contradict each other.
    """
    start = time.perf_counter()
    order = list(range(rows.shape[1]) if targets is None else targets)
    encoding = encode(network, ball, layers, rows[0, order])
    program = _Program(encoding, ball)
    margins = torch.full_like(rows[0, :, 0], -math.inf)
    minimisers = ball.center.expand(rows.shape[1], *network.input_shape).clone()
    found = []
    for position in range(len(order)):
        left = math.inf if seconds is None else seconds - (time.perf_counter() - start)
        answer = program.minimise(position, left) if left > 0 else None
        if answer is None:
            break
        found.append(answer)
    if found:
        done = torch.as_tensor(order[: len(found)], device=rows.device)
        inputs = torch.as_tensor(np.stack([x for x, _ in found]), device=rows.device)
        weights = torch.as_tensor(np.stack([weight for _, weight in found]), device=rows.device)
        multipliers = _scattered(weights, encoding, layers)
        margins[done] = lagrangian(rows[0, done], network.blocks, layers, ball, multipliers)
        every = ball.take(torch.zeros_like(done))
        minimisers[done] = every.project(inputs.view(-1, *network.input_shape))
    return LpOutcome(margins, minimisers, len(found), program.problem.size, time.perf_counter() - start)


@torch.no_grad()
def tighten(
    network: Network,
    ball: Ball,
    layers: Sequence[Bounds],
    *,
    seconds: float | None = None,
    only: Collection[int] | None = None,
) -> list[Bounds]:
    """Hidden bounds, from the second layer on, by two linear programs for every unit they leave unstable.

    Each layer rests on the tightened bounds of those below (the first layer's are exact). Rarely worth its time once
    the bounds come from backward passes.

    Args:
        network, ball: as in `triangle`.
        layers: sound bounds on the hidden layers, each [1, *shape].
        seconds: for all layers together; None for no limit. What is not reached in time stays as it is.
        only: hidden layers (0-based) to tighten; None for all.
    Returns:
        bounds nowhere looser than `layers`.
    """
    start = time.perf_counter()
    found = [layer.take(slice(None)) for layer in layers[:1]]
    for depth in range(1, len(layers)):
        if only is not None and depth not in only:
            found.append(layers[depth])
            continue
        below, shape = network.below(depth), layers[depth].lower.shape
        units = layers[depth].unstable.flatten().nonzero().squeeze(1)
        one = torch.zeros(len(units), below.classes, dtype=network.dtype, device=units.device)
        one[torch.arange(len(units), device=units.device), units] = 1.0
        left = None if seconds is None else max(0.0, seconds - (time.perf_counter() - start))
        lower, upper = layers[depth].lower.flatten().clone(), layers[depth].upper.flatten().clone()
        if len(units) and left != 0:
            ends = torch.stack([one, -one], dim=1).flatten(0, 1)
            margins = triangle(below, ball, ends.unsqueeze(0), found, seconds=left).margins
            lower[units] = torch.maximum(lower[units], margins[::2])
            upper[units] = torch.minimum(upper[units], -margins[1::2])
        found.append(Bounds(lower.view(shape), upper.view(shape)))
    return found


class _Program:
    """The program of one point, over variables (m, y, s): pixels = base + moves m, neurons in units of their own range.

    Args:
        encoding: of the margins to be minimised.
        ball: one ball.
    """

    def __init__(self, encoding: Encoding, ball: Ball) -> None:
        self.encoding, scaled = encoding, encoding.in_units()
        self.units = encoding.upper / scaled.upper
        self.base, self.moves, (least, most), budget = _movements(encoding, ball)
        n, count = len(scaled.units), len(least)
        z, constants = self.substitute(scaled.forms, scaled.form_constants)
        costs, _ = self.substitute(scaled.margins, scaled.margin_constants)
        self.costs = sparse.hstack([costs, sparse.csr_array((costs.shape[0], n))], format="csr")
        y, eye = sparse.eye_array(n, count + n, k=count), sparse.eye_array(n)
        slope = scaled.upper / (scaled.upper - scaled.lower)
        whole = np.concatenate([np.ones(count), np.zeros(2 * n)])
        rows = [
            sparse.hstack([y - z, -eye]),
            sparse.hstack([sparse.diags_array(1 - slope) @ y, sparse.diags_array(slope)]),
            sparse.csr_array(np.tile(whole, (len(budget), 1))),
        ]
        self.problem = Problem(
            rows=sparse.csr_array(sparse.vstack(rows, format="csr")),
            row_lower=np.concatenate([constants, np.full(n + len(budget), -np.inf)]),
            row_upper=np.concatenate([constants, -slope * scaled.lower, budget]),
            lower=np.concatenate([least, np.zeros(2 * n)]),
            upper=np.concatenate([most, scaled.upper, -scaled.lower]),
            binary=np.zeros(count + 2 * n, dtype=bool),
            cost=np.zeros(count + 2 * n),
        )
        self.solver = LinearPrograms(self.problem)

    def substitute(self, forms: sparse.csr_array, constants: Vector) -> tuple[sparse.csr_array, Vector]:
        """Forms in (pixels, y) as forms in (m, y)."""
        pixels = len(self.base)
        own = forms[:, :pixels]
        return sparse.csr_array(sparse.hstack([own @ self.moves, forms[:, pixels:]])), constants + own @ self.base

    def minimise(self, margin: int, seconds: float) -> tuple[Vector, Vector] | None:
        """The input [d] with the smallest relaxed margin, and B of every neuron [n]; None when time runs out."""
        answer = self.solver.minimise(self.costs[[margin]].toarray()[0], seconds)
        if answer is None:
            return None
        v, duals = answer
        x = self.encoding.input(self.base + self.moves @ v[: self.moves.shape[1]])
        return x, duals[: len(self.units)] / self.units


def _movements(encoding: Encoding, ball: Ball) -> tuple[Vector, sparse.csr_array, tuple[Vector, Vector], Vector]:
    """base, moves, the range of m and the most its sum may be (empty: anything), for the ball in these pixels."""
    count = len(encoding.pixels)
    if math.isinf(ball.p):
        ends = (encoding.pixel_lower, encoding.pixel_upper)
        return np.zeros(count), sparse.eye_array(count, format="csr"), ends, np.zeros(0)
    if ball.p != 1:
        raise UsageError(f"an l{ball.p:g} ball is not described by linear inequalities", "alpha-CROWN stands in for it")
    down, up = (np.asarray(side.flatten().cpu())[encoding.pixels] for side in ball.room())
    # A pixel at the end of the box moves one way only.
    eye = sparse.eye_array(count, format="csc")
    moves = sparse.hstack([eye[:, up > 0], -eye[:, down > 0]], format="csr")
    most = np.concatenate([up[up > 0], down[down > 0]])
    return (
        encoding.center[encoding.pixels],
        sparse.csr_array(moves),
        (np.zeros(len(most)), most),
        ball.eps.cpu().numpy(),
    )


def _scattered(weights: Tensor, encoding: Encoding, layers: Sequence[Bounds]) -> list[Tensor]:
    """Numbers of the encoding's neurons [T, n] as maps of their layers, [T, *shape] each; zero elsewhere."""
    maps = []
    for layer, bounds in enumerate(layers):
        here = torch.as_tensor(np.flatnonzero(encoding.layers == layer), device=weights.device)
        units = torch.as_tensor(encoding.units[encoding.layers == layer], device=weights.device)
        whole = weights.new_zeros(len(weights), bounds.lower.numel())
        maps.append(whole.index_copy(1, units, weights[:, here]).view(-1, *bounds.lower.shape[1:]))
    return maps
