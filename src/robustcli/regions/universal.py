"""Radii that hold for every norm at once: the largest l_p ball inside an l_1 ball and an l_inf ball together (001).

    naive   the larger of the two single inclusions                            001 eq. 4
    union   the largest ball inside B_1 union B_inf                            001 Proposition 3.1
    hull    the largest ball inside the convex hull of the union               001 Theorem 3.1

A network that is affine on a region with distances rho_1, rho_inf is robust on the hull of both balls, so hull(rho_1,
rho_inf) is a guarantee for every p (001 Theorem 4.1). That argument needs distances without the input box: the hull of
two balls cut with a box need not contain the cut l_p ball.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ROUNDING = 1e-13  # relative, larger than what the formulas lose


def naive(e1: ArrayLike, einf: ArrayLike, p: float, dimension: int) -> Array:
    """max(e_inf, e_1 d^(1/p - 1)): the ball inside B_inf, or the one inside B_1 (001 eq. 4)."""
    one, infinite = _radii(e1, einf)
    return np.maximum(infinite, one * dimension ** (1 / p - 1))


def union(e1: ArrayLike, einf: ArrayLike, p: float, dimension: int) -> Array:
    """min ||x||_p over x outside B_1 and B_inf (001 Proposition 3.1):

    (e_inf^p + (e_1 - e_inf)^p / (d - 1)^(p - 1))^(1/p)   for e_1 in (e_inf, d e_inf)
    """

    def between(one: Array, infinite: Array) -> Array:
        if np.isinf(p):
            return infinite
        others = max(dimension - 1, 1)
        share = (one - infinite) / infinite / others  # below 1, so that its power stays in the range of floats
        return np.asarray(infinite * (1 + others * share**p) ** (1 / p))

    return _piecewise(between, e1, einf, p, dimension)


def hull(e1: ArrayLike, einf: ArrayLike, p: float, dimension: int) -> Array:
    """min ||x||_p over x outside the convex hull of B_1 and B_inf (001 Theorem 3.1):

    e_1 / (e_1/e_inf - alpha + alpha^q)^(1/q),   alpha = e_1/e_inf - floor(e_1/e_inf),   for e_1 in (e_inf, d e_inf)
    """

    def between(one: Array, infinite: Array) -> Array:
        if p == 1:
            return one
        q = 1.0 if np.isinf(p) else p / (p - 1)
        ratio = one / infinite
        whole = np.floor(ratio)
        return np.asarray(one / (whole + (ratio - whole) ** q) ** (1 / q))

    return _piecewise(between, e1, einf, p, dimension)


def certified_radius(rho1: ArrayLike, rhoinf: ArrayLike, p: float, dimension: int) -> Array:
    """Robust l_p radius from l_1 and l_inf guarantees without box, rounded downwards (001 Theorem 4.1)."""
    return hull(rho1, rhoinf, p, dimension) * (1 - ROUNDING)


def _radii(e1: ArrayLike, einf: ArrayLike) -> tuple[Array, Array]:
    one, infinite = np.broadcast_arrays(np.asarray(e1, dtype=np.float64), np.asarray(einf, dtype=np.float64))
    return one, infinite


def _piecewise(
    between: Callable[[Array, Array], Array], e1: ArrayLike, einf: ArrayLike, p: float, dimension: int
) -> Array:
    """The formula where neither ball contains the other; else the l_p ball inside the larger one.

    e_1 <= e_inf: B_1 lies in B_inf, radius e_inf. e_1 >= d e_inf: B_inf lies in B_1, radius e_1 d^(1/p - 1).
    """
    one, infinite = _radii(e1, einf)
    inside = (one > infinite) & (one < dimension * infinite)
    safe_one, safe_infinite = np.where(inside, one, 1.5), np.where(inside, infinite, 1.0)
    alone = np.where(one <= infinite, infinite, one * dimension ** (1 / p - 1))
    return np.where(inside, between(safe_one, safe_infinite), alone)
