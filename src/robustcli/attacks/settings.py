"""Settings of the attacks. Imports no torch, so that command lines and recipes can use it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robustcli.recipes.fields import Fraction, Positive, Strict


class PgdSettings(Strict):
    """Projected gradient descent (methods of 000 appendix B, 001 section 5; steps as in APGD by default)."""

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


class NearestSettings(Strict):
    """Settings of the search for the nearest misclassified point."""

    rounds: int = Field(10, ge=1, description="radii tried per point: doubled until a success, then bisected")
    steps: int = Field(50, ge=1, description="gradient steps at each radius")


FGSM = PgdSettings.model_validate({"steps": 1, "restarts": 1, "targets": 0, "loss": "ce"})
"""One step from the point itself, to the end of the ball."""
