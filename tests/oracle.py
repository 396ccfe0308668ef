"""Brute force: every linear region of a small network, and exact optimisation inside each of them.

For networks with few units (12 give at most some hundred regions in two or three dimensions). Regions are found by a
depth-first search over activation patterns, one feasibility test a step; inside a region the network is affine, so the
smallest perturbation is an LP (l1, linf) or a least-distance problem (l2), and the smallest margin likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls

from robustcli.networks.network import Network

Array = NDArray[np.float64]
Box = tuple[float, float] | None
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True)
class AffineRegion:
    """{ z : signs (rows z + offsets) >= 0 }, on which logits = slope z + intercept; `constraints` z <= `limits`."""

    constraints: Array
    limits: Array
    slope: Array
    intercept: Array


def weights(network: Network) -> list[tuple[Array, Array]]:
    """The affine maps between the ReLUs as matrices and vectors."""
    found = []
    for block in network.double().blocks:
        basis = torch.eye(math.prod(block.in_shape), dtype=torch.float64).view(-1, *block.in_shape)
        matrix = block.linear(basis).flatten(1).T
        found.append((matrix.detach().numpy().copy(), block.offset().detach().flatten().numpy().copy()))
    return found


_KNOWN: dict[tuple[str, Box], list[AffineRegion]] = {}


def regions(network: Network, box: Box) -> list[AffineRegion]:
    """All regions whose closure meets the box (or the whole space); found once per network and box."""
    key = (network.weights_hash(), box)
    if key not in _KNOWN:
        _KNOWN[key] = _search(weights(network), box)
    return _KNOWN[key]


def _search(maps: list[tuple[Array, Array]], box: Box) -> list[AffineRegion]:
    dimension = maps[0][0].shape[1]
    found: list[AffineRegion] = []

    def visit(layer: int, slope: Array, shift: Array, bits: list[bool], rows: list[Array], limits: list[float]) -> None:
        unit = len(bits)
        if layer == len(maps) - 1:
            found.append(AffineRegion(np.array(rows).reshape(-1, dimension), np.array(limits), slope, shift))
        elif unit == len(shift):
            mask = np.array(bits, dtype=np.float64)
            matrix, bias = maps[layer + 1]
            visit(layer + 1, matrix @ (mask[:, None] * slope), matrix @ (mask * shift) + bias, [], rows, limits)
        else:
            for on in (True, False):
                sign = -1.0 if on else 1.0
                more, most = [*rows, sign * slope[unit]], [*limits, -sign * shift[unit]]
                if math.isfinite(nearest_in_polytope(np.array(more), np.array(most), np.zeros(dimension), 2, box)):
                    visit(layer, slope, shift, [*bits, on], more, most)

    visit(0, *maps[0], [], [], [])
    return found


def minimal_distance(network: Network, x: torch.Tensor, label: int, p: float, box: Box) -> float:
    """min ||z - x||_p over z in the box with max_{s != y} f_s(z) >= f_y(z); inf when there is none."""
    center = x.detach().double().flatten().numpy()
    problems = []
    for region in regions(network, box):
        for other in range(len(region.intercept)):
            if other != label:
                row = region.slope[label] - region.slope[other]
                limit = region.intercept[other] - region.intercept[label]
                rows, limits = np.vstack([region.constraints, row]), np.append(region.limits, limit)
                problems.append((nearest_in_polytope(rows, limits, center, 2, box), rows, limits))
    best, widest = math.inf, math.sqrt(len(center)) if math.isinf(p) else 1.0
    for euclidean, rows, limits in sorted(problems, key=lambda problem: problem[0]):
        if math.isinf(euclidean) or best <= euclidean / widest - 1e-9:
            break  # ||.||_1 >= ||.||_2 and ||.||_inf >= ||.||_2 / sqrt(d)
        best = min(best, nearest_in_polytope(rows, limits, center, p, box))
    return best


def minimal_margin(network: Network, x: torch.Tensor, label: int, eps: float, p: float, box: Box) -> float:
    """min over z in the ball and the box of f_y(z) - max_{s != y} f_s(z)."""
    center = x.detach().double().flatten().numpy()
    best = math.inf
    for region in regions(network, box):
        if nearest_in_polytope(region.constraints, region.limits, center, p, box) > eps + 1e-12:
            continue
        for other in range(len(region.intercept)):
            if other != label:
                row = region.slope[label] - region.slope[other]
                shift = float(region.intercept[label] - region.intercept[other])
                found = smallest_value(row, region.constraints, region.limits, center, eps, p, box)
                best = min(best, found + shift)
    return best


def nearest_in_polytope(rows: Array, limits: Array, x: Array, p: float, box: Box) -> float:
    """min ||z - x||_p over rows z <= limits and the box; inf when empty."""
    d = len(x)
    moved = limits - rows @ x  # constraints on delta = z - x
    low, high = (np.full(d, -np.inf), np.full(d, np.inf)) if box is None else (box[0] - x, box[1] - x)
    if p == 2:
        extra = [] if box is None else [np.eye(d), -np.eye(d)]
        ends = [] if box is None else [high, -low]
        return least_distance(np.vstack([rows, *extra]), np.concatenate([moved, *ends]))
    if p == 1:
        cost, left = np.ones(2 * d), np.hstack([rows, -rows])
        bounds = [(0, max(v, 0)) for v in high] + [(0, max(-v, 0)) for v in low]
    else:
        cost = np.append(np.zeros(d), 1.0)
        inside = np.hstack([np.vstack([np.eye(d), -np.eye(d)]), -np.ones((2 * d, 1))])
        left = np.vstack([np.hstack([rows, np.zeros((len(rows), 1))]), inside])
        moved = np.concatenate([moved, np.zeros(2 * d)])
        bounds = [*zip(low, high, strict=True), (0, None)]
    answer = linprog(cost, A_ub=left, b_ub=moved, bounds=bounds, options=TIGHT)
    return float(answer.fun) if answer.status == 0 else math.inf


def least_distance(rows: Array, limits: Array) -> float:
    """min ||delta||_2 over rows delta <= limits, by non-negative least squares (Lawson & Hanson, chapter 23)."""
    if (limits >= 0).all():
        return 0.0
    stacked = np.vstack([-rows.T, -limits])
    target = np.append(np.zeros(rows.shape[1]), 1.0)
    solution, residual = nnls(stacked, target, maxiter=100 * stacked.shape[1])
    rest = stacked @ solution - target
    return math.inf if residual < 1e-9 or rest[-1] == 0 else float(np.linalg.norm(rest[:-1]) / abs(rest[-1]))


def smallest_value(row: Array, rows: Array, limits: Array, x: Array, eps: float, p: float, box: Box) -> float:
    """min <row, z> over rows z <= limits, ||z - x||_p <= eps and the box (inf when empty)."""
    d = len(x)
    if p == 2:
        low = float(row @ x) - eps * float(np.linalg.norm(row)) - 1e-9
        high = float(row @ x) + eps * float(np.linalg.norm(row)) + 1e-9
        for _ in range(60):
            middle = (low + high) / 2
            near = nearest_in_polytope(np.vstack([rows, row]), np.append(limits, middle), x, 2.0, box)
            low, high = (low, middle) if near <= eps else (middle, high)
        return high
    moved = limits - rows @ x
    low_end, high_end = (np.full(d, -eps), np.full(d, eps))
    if box is not None:
        low_end, high_end = np.maximum(low_end, box[0] - x), np.minimum(high_end, box[1] - x)
    if p == 1:
        left = np.vstack([np.hstack([rows, -rows]), np.ones(2 * d)])
        bounds = [(0, v) for v in high_end] + [(0, -v) for v in low_end]
        answer = linprog(np.append(row, -row), A_ub=left, b_ub=np.append(moved, eps), bounds=bounds, options=TIGHT)
    else:
        answer = linprog(row, A_ub=rows, b_ub=moved, bounds=list(zip(low_end, high_end, strict=True)), options=TIGHT)
    return float(answer.fun + row @ x) if answer.status == 0 else math.inf
