"""How radii grow during training, as the share f of their end, and what moves with f."""

from __future__ import annotations

from collections.abc import Callable

from robustcli.recipes.methods import Mix, Ramp
from robustcli.training.objective import Moment

QUARTER = 0.25


def linear(progress: float) -> float:
    """f = t."""
    return progress


def smoothed(progress: float) -> float:
    """f = a t^4 up to t = m = 1/4, then the tangent there (Shi et al. 2021); a makes it 1 at t = 1."""
    scale = 1 / (4 * QUARTER**3 * (1 - QUARTER) + QUARTER**4)
    if progress < QUARTER:
        return scale * progress**4
    return scale * (QUARTER**4 + 4 * QUARTER**3 * (progress - QUARTER))


SHAPES: dict[str, Callable[[float], float]] = {"linear": linear, "smoothed": smoothed}
"""By the name in recipes: f after the share t in [0, 1] of the ramp."""


def share(ramp: Ramp, moment: Moment) -> float:
    """f of a step: 0 in the first `start` epochs, 1 from epoch `start + epochs` on."""
    if moment.time >= ramp.start + ramp.epochs:
        return 1.0
    return SHAPES[ramp.name](max(moment.time - ramp.start, 0.0) / max(ramp.epochs, 1))


def mixed(mix: Mix, grown: float) -> float:
    """The mix's share at f = `grown`."""
    return mix.start + grown * (mix.end - mix.start)
