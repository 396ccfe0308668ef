"""Radii inside l1 and linf balls: the table, the edges, sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustcli.regions.universal import certified_radius, hull, naive, union

PS = [1.25, 1.5, 2, 3, 5, 10]
TABLE = {
    (1, 0.1): [0.630957, 0.464159, 0.316228, 0.215443, 0.158489, 0.125893],
    (3, 4 / 255): [1.049335, 0.520913, 0.217037, 0.090416, 0.044872, 0.026531],
    (2, 2 / 255): [0.660271, 0.315391, 0.125245, 0.049736, 0.023757, 0.013650],
    (1, 0.3): [0.802522, 0.690531, 0.566947, 0.461230, 0.389173, 0.341922],
    (2.5, 1): [2.169638, 1.944556, 1.666667, 1.412941, 1.232603, 1.110790],
}


@pytest.mark.parametrize("radii", TABLE)
def test_hull_table(radii: tuple[float, float]) -> None:
    for p, expected in zip(PS, TABLE[radii], strict=True):
        assert hull(*radii, p, 3072) == pytest.approx(expected, abs=1e-6)


def test_union_and_naive() -> None:
    cases = [
        (1, 0.1, 784, 0.105045, 0.1),
        (3, 4 / 255, 3072, 0.056090, 0.054127),
        (2, 2 / 255, 3072, 0.036794, 0.036084),
    ]
    for e1, einf, d, both, alone in cases:
        assert union(e1, einf, 2, d) == pytest.approx(both, abs=1e-6)
        assert naive(e1, einf, 2, d) == pytest.approx(alone, abs=1e-6)


def test_largest_gain_of_the_hull() -> None:
    for d, gain, at in ((784, 3.8250, 27.5), (3072, 5.3236, 55.5)):
        ratios = np.linspace(1, d, 200001)
        gains = hull(ratios, 1.0, 2, d) / union(ratios, 1.0, 2, d)
        assert gains.max() == pytest.approx(gain, abs=1e-4)
        assert ratios[gains.argmax()] == pytest.approx(at, abs=0.6)


@pytest.mark.parametrize("radius", [naive, union, hull])
def test_edges(radius: object) -> None:
    d = 7
    assert radius(0.5, 1.0, 2, d) == 1.0  # type: ignore[operator]
    assert radius(1.0, 1.0, 2, d) == 1.0  # type: ignore[operator]
    assert radius(9.0, 1.0, 2, d) == pytest.approx(9 / math.sqrt(d))  # type: ignore[operator]
    assert radius(3.0, 1.0, 1, d) == pytest.approx(3.0)  # type: ignore[operator]
    assert radius(3.0, 1.0, math.inf, d) == 1.0  # type: ignore[operator]
    assert radius(0.0, 0.0, 2, d) == 0.0  # type: ignore[operator]
    assert radius(3.0, 2.0, 2, 1) == 3.0  # type: ignore[operator]


@pytest.mark.parametrize("p", [1, 1.3, 2, 5, math.inf])
def test_continuous_and_ordered(p: float) -> None:
    d = 6
    for ratio in (1.0, 2.0, 5.0, 6.0):
        near = hull(np.array([ratio - 1e-9, ratio, ratio + 1e-9]), 1.0, p, d)
        assert np.ptp(near) < 1e-6
    ratios = np.linspace(0.5, 8, 300)
    assert (naive(ratios, 1.0, p, d) <= union(ratios, 1.0, p, d) + 1e-12).all()
    assert (union(ratios, 1.0, p, d) <= hull(ratios, 1.0, p, d) + 1e-12).all()
    assert (certified_radius(ratios, 1.0, p, d) <= hull(ratios, 1.0, p, d)).all()


def test_points_of_the_ball_lie_in_the_hull() -> None:
    """z is in conv(B_1 + B_inf) when it is a sum u + v, |u|_1 / e_1 + |v|_inf / e_inf <= 1; split by clipping."""
    rng = np.random.default_rng(0)
    d, e1, einf = 5, 2.5, 1.0
    for p in (1.5, 2.0, 4.0):
        z = rng.normal(size=(2000, d)) * (rng.random((2000, d)) < 0.6)
        z = np.vstack([z, np.array([[1, 1, 0.5, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])])
        norms = (np.abs(z) ** p).sum(1) ** (1 / p)
        z = z[norms > 0] / norms[norms > 0, None] * hull(e1, einf, p, d)
        caps = np.vstack([np.zeros(len(z)), np.abs(z).T])  # the best cap is one of the entries
        rest = np.clip(np.abs(z)[None] - caps[..., None], 0, None).sum(-1)
        assert ((rest / e1 + caps / einf).min(0) <= 1 + 1e-9).all()
