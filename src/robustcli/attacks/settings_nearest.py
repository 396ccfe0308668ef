"""Settings of the attacks that look for the nearest misclassified point. Imports no torch.

A pass is one forward or one backward pass of one point. Lengths are in units of the longest side of the input box (of 1
without a box), so the papers' figures for [0, 1] hold for any box.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from robustcli.recipes.fields import Fraction, NonNegative, Positive, Strict


class FabSettings(Strict):
    """FAB (Croce & Hein, ICML 2020, arXiv 1907.02044): steps of `restarts` untargeted runs and one run a rival class.

    Passes: restarts * steps * (K + 1), a look more for every random start; min(targets, rivals) * (steps * 3 + 1); the
    pull of each run.
    """

    steps: int = Field(100, ge=1, description="projections onto a decision hyperplane in each run")
    restarts: int = Field(5, ge=0, description="runs against all rival classes: one from the point, the others random")
    targets: int = Field(9, ge=0, description="further runs, each against one of the closest rival classes")
    alpha_max: Fraction = Field(0.1, description="largest weight of the original point's projection")
    eta: float = Field(1.05, ge=1, le=10, description="overshoot behind the hyperplane")
    beta: Fraction = Field(0.9, description="share of the way out that is kept after a success")

    @model_validator(mode="after")
    def _something_to_do(self) -> FabSettings:
        if self.restarts + self.targets == 0:
            raise ValueError("FAB needs restarts or targets, at least one of them above 0")
        return self


class CarliniWagnerSettings(Strict):
    """Carlini & Wagner's l2 attack (arXiv 1608.04644). Passes: searches * steps * 2 at most, and the pull."""

    searches: int = Field(9, ge=1, description="constants tried: times ten until a success, then bisected")
    steps: int = Field(1000, ge=1, description="Adam steps for each constant")
    rate: Positive = Field(0.01, description="Adam's learning rate")
    constant: Positive = Field(0.001, description="first weight of the margin against the squared distance")
    abort_early: bool = Field(True, description="end a search that a tenth of the steps has not brought further")


class DdnSettings(Strict):
    """Decoupled direction and norm, l2 (Rony et al., CVPR 2019, arXiv 1811.09600). Passes: restarts * steps * 2."""

    steps: int = Field(1000, ge=1, description="gradient steps of each run")
    restarts: int = Field(1, ge=1, description="one run from the point itself, the others from random points")
    radius: Positive = Field(1.0, description="first distance of the iterates")
    gamma: Fraction = Field(0.05, description="share by which the distance falls after a success and grows otherwise")


class FmnSettings(Strict):
    """Fast minimum norm (Pintor et al., NeurIPS 2021, arXiv 2102.12827). Passes: restarts * steps * 2."""

    steps: int = Field(1000, ge=1, description="gradient steps of each run")
    restarts: int = Field(1, ge=1, description="one run from the point itself, the others from random points")
    step_size: Positive | None = Field(
        None, description="l2 length of the first step; the last is a hundredth; none: 10 for linf, else 1"
    )
    gamma: Fraction = Field(0.05, description="first share by which the radius changes")
    last_gamma: Fraction = Field(0.001, description="last such share")


class PdpgdSettings(Strict):
    """Primal-dual proximal gradient descent (Matyasko & Chau 2021, arXiv 2106.01538). Passes: restarts * steps * 2."""

    steps: int = Field(1000, ge=2, description="gradient steps of each run")
    restarts: int = Field(1, ge=1, description="one run from the point itself, the others from random points")
    rate: Positive = Field(0.1, description="first learning rate of the point; the last is a hundredth")
    ratio: Positive = Field(0.01, description="first weight of the distance against the margin")
    dual_rate: Positive = Field(0.1, description="first learning rate of the weights; the last is a tenth")
    proximal_steps: int = Field(5, ge=1, description="proximal steps for each gradient step")


class EadSettings(Strict):
    """Elastic-net attack, l1 and l2 (Chen et al., AAAI 2018, arXiv 1709.04114).

    Passes: searches * steps * 3, and the pull.
    """

    searches: int = Field(9, ge=1, description="constants tried: times ten until a success, then bisected")
    steps: int = Field(300, ge=1, description="FISTA steps for each constant")
    rate: Positive = Field(0.01, description="first step size, falling with the square root of the steps left")
    constant: Positive = Field(0.001, description="first weight of the margin against the distance")
    sparsity: NonNegative = Field(0.01, description="beta, weight of the l1 norm against the squared l2 norm")
    abort_early: bool = Field(False, description="end a search that a tenth of the steps has not brought further")
