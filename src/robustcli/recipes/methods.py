"""Settings of each training method, one class a method; `name` chooses. The objectives live in `robustcli.training`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from robustcli.recipes.fields import Fraction, NonNegative, NormName, Number, Positive, Strict


class Plain(Strict):
    """Cross-entropy on clean points."""

    name: Literal["plain"]


class Adversarial(Strict):
    """Training on PGD points (000 appendix B.1; 001: the strongest of several norms)."""

    name: Literal["at"]
    norms: list[NormName] = Field(min_length=1, description="one norm, or several: each point takes its worst (001)")
    fraction: Fraction = Field(0.5, description="share of each batch that is attacked (000: one half; 001: all)")
    steps: int = Field(40, ge=1, description="PGD steps")
    step_size: Positive | None = Field(None, description="step in units of the norm; none: 2 eps / steps")


class Tightening(Strict):
    """Regularisers that make a relaxation tight (004, section 4.3)."""

    gap: NonNegative = Field(0.0, description="lambda, weight of d: relaxed margins below those at the worst input")
    distance: NonNegative = Field(0.0, description="gamma, weight of r: distance of unstable units to where lines meet")
    warmup_epochs: int = Field(20, ge=0, description="epochs over which both grow linearly from 0")


class ConvexPolytope(Strict):
    """Cross-entropy of the dual bound over the convex outer polytope (003, Theorem 2)."""

    name: Literal["kw"]
    norm: NormName
    boxed: bool = Field(False, description="cut the ball with the input box (003 trains without)")
    start_eps: Positive | None = Field(None, description="eps of the first epoch; none: constant eps")
    ramp_epochs: int = Field(0, ge=0, description="epochs over which eps grows linearly from start_eps to eps")
    projections: int | None = Field(
        None, ge=1, description="estimate hidden bounds from so many random projections (linf; l2 without the box)"
    )
    tightness: Tightening | None = Field(None, description="regularisers of 004")


class NearestUnits(Strict):
    """How many of the closest hyperplanes are penalised, as shares of all hidden units (000: 10 % -> 2 %)."""

    start: Fraction = 0.10
    end: Fraction = 0.02


class Conventions(Strict):
    """Where the authors' code departs from their text."""

    decision_divisor: Literal["classes", "others"] = Field("classes", description="divide by K (code) or K-1 (001)")
    stabiliser: NonNegative = Field(0.0, description="added to entries of V smaller than it (code, CNN: 1e-5)")
    tie_noise: NonNegative = Field(1e-5, description="width of the uniform offsets that break ties in the selection")
    first_layer: Literal["inside", "full-filter"] = Field(
        "inside", description="what counts of a first convolution's filter at a padded border (the code: all of it)"
    )
    first_pass: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision in which units are short-listed; those chosen are ranked in float32 again"
    )


class MaximumMargin(Strict):
    """MMR: cross-entropy plus hinges on the distances to region and decision boundaries (000 eq. 4)."""

    name: Literal["mmr"]
    norm: NormName
    lmbd: NonNegative = Field(description="weight of the regulariser, lambda")
    gamma: Positive = Field(description="gamma_B = gamma_D, hinge width in units of the norm")
    gamma_decision: Positive | None = Field(None, description="gamma_D where it differs from gamma")
    warmup_epochs: int = Field(10, ge=0, description="epochs over which lambda grows linearly")
    nearest: NearestUnits = NearestUnits()
    conventions: Conventions = Conventions()
    boundary: bool = Field(True, description="false: the decision term alone, the ablation MMR-dD of 000 (Table 2)")
    adversarial: Adversarial | None = Field(None, description="MMR+AT: half of the batch attacked")


class MaximumMarginUniversal(Strict):
    """MMR-Universal: both an l1 and an linf regulariser (001 eq. 9)."""

    name: Literal["mmr-universal"]
    lmbd_l1: NonNegative
    lmbd_linf: NonNegative
    gamma_l1: Positive
    gamma_linf: Positive
    warmup_epochs: int = Field(10, ge=0)
    nearest: NearestUnits = NearestUnits(start=0.20, end=0.05)
    selection: Literal["union", "separate"] = Field(
        "union", description="units of both norms penalised in both (code), or each norm its own (text)"
    )
    conventions: Conventions = Conventions()


class CrossLipschitz(Strict):
    """Cross-entropy plus the mean squared l2 distance between input gradients of logits (000 appendix C)."""

    name: Literal["cross-lipschitz"]
    lmbd: NonNegative = Field(description="weight of the regulariser, lambda")


class Ramp(Strict):
    """How the radius grows: its share f of the end, from 0 to 1."""

    name: Literal["linear", "smoothed"] = Field(
        "linear", description="smoothed: with the fourth power over the first quarter, then linearly (Shi et al. 2021)"
    )
    start: int = Field(0, ge=0, description="epochs before it, with a radius of practically 0")
    epochs: int = Field(0, ge=0, description="its length; 0: the whole radius from the start")


class Mix(Strict):
    """A share that moves from `start` to `end` as the radius grows: start + f (end - start)."""

    start: Fraction = 0.0
    end: Fraction = 0.0


class InnerAttack(Strict):
    """PGD on the cross-entropy inside a training loss, in units of the radius of the moment."""

    steps: int = Field(1, ge=1)
    step_size: Positive = Field(10.0, description="one step of 10 ends in a corner of the linf ball")
    radius: Positive = Field(1.0, description="of the attack")


class Intervals(Strict):
    """What all methods of the IBP family share."""

    norms: list[NormName] = Field(min_length=1, description="one norm, or several: the union of their balls")
    union: Literal["hull", "worst", "mean"] = Field(
        "hull",
        description="hull: one pass, each first-layer unit over all its values in any of the balls; worst: a pass a "
        "norm, each point by its largest loss; mean: a pass a norm, the mean loss",
    )
    boxed: list[NormName] = Field(
        ["linf"], description="norms whose balls are cut with the input box (l1 and l2: ten times the cost)"
    )
    eps_factor: Positive = Field(1.0, description="radii of training in units of the recipe's")
    ramp: Ramp = Ramp()
    kappa: Mix = Field(Mix(), description="share of the clean cross-entropy")
    beta: Mix = Field(Mix(), description="share of the CROWN-IBP bound in the margins, the rest being interval bounds")
    stability: NonNegative = Field(0.0, description="weight of Shi et al.'s regulariser, fading as the radius grows")
    l1: NonNegative = Field(0.0, description="weight of the sum of all absolute weights, biases left out")


class IntervalPropagation(Intervals):
    """IBP: cross-entropy of interval bounds on the margins (Gowal et al. 2018)."""

    name: Literal["ibp"]


class CrownIntervals(Intervals):
    """CROWN-IBP: bounds that move from CROWN-IBP to intervals as the radius grows (Zhang et al. 2020)."""

    name: Literal["crown-ibp"]
    beta: Mix = Field(Mix(start=1.0, end=0.0), description="share of the CROWN-IBP bound in the margins")
    tightness: Tightening | None = Field(None, description="regularisers of 004, as long as that share is above 0")


class Expressive(Intervals):
    """A loss between that of attacked points and that of interval bounds (De Palma et al. 2024)."""

    name: Literal["mtl-ibp", "cc-ibp", "exp-ibp"]
    alpha: Fraction = Field(description="0: the loss of attacked points, 1: that of the bounds")
    attack: InnerAttack = InnerAttack()
    bound_radius: dict[NormName, Fraction] = Field(
        {}, description="radius of a norm's bounds in units of its attack's; 1 for norms that are not named"
    )

    @model_validator(mode="after")
    def _known_norms(self) -> Expressive:
        if strange := set(self.bound_radius) - set(self.norms):
            raise ValueError(f"bound_radius names {', '.join(sorted(strange))}, which norms does not")
        return self


class SmallBox(Intervals):
    """SABR: interval bounds over a small ball around an attacked point (Mueller et al. 2023)."""

    name: Literal["sabr"]
    ratio: Fraction = Field(gt=0, description="radius of the small ball in units of the whole one, lambda")
    attack: InnerAttack = InnerAttack(steps=8, step_size=0.5)


class LatentAttack(Strict):
    """PGD on the error terms of a zonotope, each in [-1, 1]."""

    steps: int = Field(8, ge=1, description="forward passes, that of the training loss included: one update fewer")
    step_size: Positive = Field(0.25, description="of each error term, along the sign of its gradient")


class Colt(Strict):
    """COLT: adversarial training inside the zonotope behind one ReLU after the other (002)."""

    name: Literal["colt"]
    norm: Literal["linf"] = "linf"
    stages: int = Field(
        ge=1, description="of equal length: attacks in the ball, behind the first ReLU, behind the second, ..."
    )
    mix_epochs: int = Field(60, ge=0, description="of every stage, over which its loss takes over from the last one's")
    eps_factor: Positive = Field(1.05, description="radius of the last stage in units of the recipe's (`start`)")
    eps_growth: Positive = Field(1.1, description="radius of every other stage in units of the next one's (`inc`)")
    rate_decay: Positive = Field(1.0, description="learning rate of every stage in units of the one before (code)")
    l1: NonNegative = Field(1e-5, description="weight of the sum of all absolute weights, biases left out")
    stability: NonNegative = Field(0.005, description="weight of the next layer's relaxed area in the first stage")
    stability_growth: Positive = Field(1.5, description="that weight in every stage in units of the one before")
    bounds: Literal["projected", "exact"] = Field(
        "projected", description="of hidden layers: estimated by Cauchy projections (002), or those of KW"
    )
    projections: int = Field(50, ge=1, description="Cauchy numbers an error term is multiplied with")
    attack: LatentAttack = LatentAttack()


class ReluStability(Strict):
    """Adversarial training of networks whose units keep their sign over balls (Xiao et al. 2019)."""

    name: Literal["relu-stability"]
    norm: NormName = Field(description="of the balls on which units shall be stable")
    attack: Adversarial
    ramp: Ramp = Field(Ramp(), description="how the attack's radius grows; that of the bounds does not")
    bounds: Literal["interval", "improved"] = Field(
        "interval", description="of hidden units; improved: active units are followed down as linear maps"
    )
    stability: NonNegative = Field(description="weight of -sum tanh(1 + l u) over all hidden units")
    l1: NonNegative = Field(
        0.0, description="weight of the sum of absolute weights of the hidden layers, kernels counted at every place"
    )


Method = Annotated[
    Plain
    | Adversarial
    | ConvexPolytope
    | MaximumMargin
    | MaximumMarginUniversal
    | CrossLipschitz
    | IntervalPropagation
    | CrownIntervals
    | Expressive
    | SmallBox
    | Colt
    | ReluStability,
    Field(discriminator="name"),
]

__all__ = [
    "Adversarial",
    "Colt",
    "Conventions",
    "ConvexPolytope",
    "CrossLipschitz",
    "CrownIntervals",
    "Expressive",
    "InnerAttack",
    "IntervalPropagation",
    "Intervals",
    "LatentAttack",
    "MaximumMargin",
    "MaximumMarginUniversal",
    "Method",
    "Mix",
    "NearestUnits",
    "Number",
    "Plain",
    "Ramp",
    "ReluStability",
    "SmallBox",
    "Tightening",
]
