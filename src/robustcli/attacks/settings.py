"""Settings of the attacks. Imports no torch, so that command lines and recipes can use it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robustcli.recipes.fields import Fraction, Positive, Strict


class WideSettings(Strict):
    """APGD, its random runs from far outside the ball."""

    steps: int = Field(100, ge=1, description="gradient steps of each run")
    restarts: int = Field(
        10, ge=1, description="runs against all other classes: one from the point itself, the others random"
    )
    targets: int = Field(3, ge=0, description="further runs, each against one of the closest other classes")
    loss: Literal["margin", "ce"] = Field("margin", description="what the untargeted runs lower: f_y - max f_t, or -CE")
    step_size: Positive | None = Field(
        None, description="constant step in units of the norm; none: adaptive steps with momentum (APGD)"
    )
    width: float = Field(
        32, ge=1, le=1e6, description="random runs start in a ball this many times wider, halved down to eps; 1: off"
    )
    sparsity: Fraction | None = Field(
        None, description="l1 only: share of coordinates moved in one step; none: adaptive (l1-APGD)"
    )


class FgsmSettings(Strict):
    """The fast gradient sign method has nothing to set."""


class PlainSettings(Strict):
    """Projected gradient descent with steps of one length (000 appendix B, 001 section 5, 003 section 5)."""

    steps: int = Field(100, ge=1, description="gradient steps of each run")
    restarts: int = Field(10, ge=1, description="runs")
    start: Literal["random", "point"] = Field("random", description="where the first run starts; the others are random")
    loss: Literal["ce", "margin"] = Field("ce", description="what is lowered: -CE, or f_y - max f_t")
    step: Positive = Field(2, description="length of a step in units of eps / steps")
    step_size: Positive | None = Field(None, description="length of a step in units of the norm instead (003: 0.01)")
    sparsity: Fraction | None = Field(
        None, description="l1: share of coordinates moved in one step; none: 1 %, 10 % of colour images (001)"
    )


class ApgdSettings(Strict):
    """APGD inside the ball (l1: from 3 eps inwards)."""

    steps: int = Field(100, ge=1, description="gradient steps of each run")
    restarts: int = Field(5, ge=1, description="runs, each from a random point")


class TargetedSettings(Strict):
    """APGD against one class after the other."""

    steps: int = Field(100, ge=1, description="gradient steps of each run")
    targets: int = Field(9, ge=0, description="classes aimed at, the closest first")
    restarts: int = Field(1, ge=1, description="runs per class")


class NearestSettings(Strict):
    """Settings of the search for the nearest misclassified point."""

    rounds: int = Field(10, ge=1, description="radii tried per point: doubled until a success, then bisected")
    steps: int = Field(50, ge=1, description="gradient steps at each radius")
