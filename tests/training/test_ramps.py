"""How radii grow."""

from __future__ import annotations

import itertools

import pytest

from robustcli.recipes.methods import Mix, Ramp
from robustcli.training.objective import Moment
from robustcli.training.ramps import SHAPES, mixed, share
from robustcli.training.randomness import generator


def at(epoch: int, step: int = 0, steps: int = 10) -> Moment:
    return Moment(epoch, 20, step, generator(0), steps)


def test_linear_ramp_by_the_step() -> None:
    ramp = Ramp(start=2, epochs=4)
    moments = [at(1), at(2, 9), at(3), at(3, 1), at(4, 5), at(6, 9), at(7), at(20, 9)]
    assert [share(ramp, moment) for moment in moments] == pytest.approx([0, 0, 0, 0.025, 0.375, 0.975, 1, 1])


def test_without_a_ramp_the_radius_is_whole_from_the_start() -> None:
    assert share(Ramp(), at(1)) == 1.0
    assert (share(Ramp(start=2), at(2, 9)), share(Ramp(start=2), at(3))) == (0.0, 1.0)


def test_smoothed_ramp() -> None:
    """From 0 to 1, rising, with a tangent that has no jump at a quarter, and straight from there."""
    smoothed = SHAPES["smoothed"]
    assert (smoothed(0.0), smoothed(1.0)) == pytest.approx((0.0, 1.0))
    values = [smoothed(step / 100) for step in range(101)]
    assert values == sorted(values)
    slopes = [(smoothed(t + 1e-6) - smoothed(t - 1e-6)) / 2e-6 for t in (0.25 - 1e-5, 0.25 + 1e-5, 0.6, 0.9)]
    assert slopes == pytest.approx([slopes[0]] * 4, rel=1e-3)
    # Shi et al.'s a for a ramp of n steps: eps / ((n - m) 4 m^3 + m^4), m = n / 4, at step n / 8.
    assert smoothed(0.125) == pytest.approx(50.0**4 / (300 * 4 * 100.0**3 + 100.0**4))


def test_the_ramp_is_continuous_in_the_step() -> None:
    ramp = Ramp(name="smoothed", start=1, epochs=3)
    values = [share(ramp, at(epoch, step)) for epoch in range(1, 7) for step in range(10)]
    assert values == sorted(values)
    assert max(after - before for before, after in itertools.pairwise(values)) < 0.05


def test_mixes_move_with_the_radius() -> None:
    mix = Mix(start=1.0, end=0.25)
    assert [mixed(mix, grown) for grown in (0.0, 0.5, 1.0)] == [1.0, 0.625, 0.25]
