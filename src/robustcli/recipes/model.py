"""The recipe: everything that determines a trained network, checked and frozen."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field

from robustcli.recipes.fields import BelowOne, Fraction, NonNegative, NormName, Number, Positive, Strict
from robustcli.recipes.methods import Colt, Method, Plain


class Adam(Strict):
    """Adam (Kingma & Ba) with torch's defaults beta = (0.9, 0.999)."""

    name: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0


class Sgd(Strict):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    lr: Positive
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0


class Drop(Strict):
    """Multiply the learning rate by `factor` for every epoch e (1..E) with e >= share * E, once per share."""

    name: Literal["drop"] = "drop"
    shares: list[Fraction] = Field(default_factory=lambda: [0.9])
    factor: Positive = 0.1


class Halving(Strict):
    """Multiply the learning rate by `factor` every `every` epochs, starting after epoch `after`."""

    name: Literal["every"]
    every: int = Field(ge=1)
    after: int = Field(0, ge=0)
    factor: Positive = 0.5


class Constant(Strict):
    """The learning rate stays."""

    name: Literal["constant"]


class Averaging(Strict):
    """Evaluate and keep a moving average of the weights instead of the last ones."""

    decay: BelowOne = Field(0.999, description="how much of the average a step leaves")
    share: BelowOne = Field(0.0, description="begin in epoch e with e >= share * E, as a drop does")


class Affine(Strict):
    """Turn and slant images at random, as handwriting varies; each draw is uniform between minus and plus the limit."""

    degrees: NonNegative = Field(5.0, le=180, description="largest angle")
    shear: NonNegative = Field(
        0.1, description="largest slant: how far a row moves sideways, in units of its distance from the middle"
    )
    contrast: Positive = Field(
        1.0, description="afterwards, around the middle of the box: above 1 sharpens what interpolation blurs"
    )


class Training(Strict):
    """The loop around the method's objective."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=1)
    drop_last: bool = Field(True, description="drop the last partial batch")
    optimiser: Annotated[Adam | Sgd, Field(discriminator="name")] = Adam()
    schedule: Annotated[Drop | Halving | Constant, Field(discriminator="name")] = Drop()
    augmentation: Literal["none", "crop-mirror", "crop-mirror-colour", "affine"] = Field(
        "none",
        description="crop-mirror: pad, random crop, mirror; -colour adds brightness and contrast (MMR code); affine: "
        "turn and slant",
    )
    padding: int = Field(2, ge=1, description="zeros around an image before it is cropped at random (MMR code: 2)")
    affine: Affine = Field(Affine(), description="how far `augmentation: affine` goes")
    clip_norm: Positive | None = Field(None, description="largest l2 norm of a step's gradient; none: not clipped")
    initialisation: Literal["truncated-normal", "torch", "shi"] = Field(
        "truncated-normal",
        description="truncated-normal: sd sqrt(2/fan_in), cut at 2 sd, zero biases (000); shi: keeps the width of "
        "intervals (Shi et al. 2021)",
    )
    batch_norm: bool = Field(
        False, description="batch normalisation before every ReLU, folded into the weights at the end"
    )
    averaging: Averaging | None = Field(None, description="moving average of the weights; none: the last weights")
    held_out: int = Field(
        0,
        ge=0,
        description="training rows kept out, the last ones (of every class, where classes are stored in turn): every "
        "epoch tells what is certified on them",
    )


class Distances(Strict):
    """Average distances to another class, in units of the norm, misclassified points included (000 Tables 2-6)."""

    norm: NormName = "l2"
    lower: NonNegative | None = Field(None, description="lower bound by KW; the exact distance where it is known")
    upper: NonNegative | None = Field(None, description="upper bound by the CW attack; exact where it is known")
    region: NonNegative | None = Field(None, description="lower bound of Theorem 3.1 with the input box (Table 4)")
    neighbours: NonNegative | None = Field(None, description="the same with neighbouring regions checked (Table 4)")
    exact: NonNegative | None = Field(
        None, description="percentage of the full test set whose distance Theorem 3.1 gives exactly (Table 3)"
    )
    exact_over_lower: NonNegative | None = Field(
        None, description="by how many percent these exact distances exceed KW's lower bounds (Table 3)"
    )


class Published(Strict):
    """One row of a paper's table, with the conditions it was measured under. Percentages, except distances."""

    paper: Literal["000", "001", "002", "003", "004"]
    table: str
    points: str = Field(description="which test points the bounds use, e.g. `first 1000`")
    boxed: bool | None = Field(None, description="whether the certified ball was cut with the input box; none: mixed")
    eps: dict[NormName, Positive]
    test_error: Number | None = None
    lower: dict[Literal["l1", "l2", "linf", "union"], Number | None] = Field(default_factory=dict)
    upper: dict[Literal["l1", "l2", "linf", "union"], Number | None] = Field(default_factory=dict)
    distances: Distances | None = Field(None, description="000 Tables 2-6: average distances instead of error bounds")
    notes: list[str] = Field(default_factory=list)


class Recipe(Strict):
    """A named recipe: dataset x architecture x method x eps."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    summary: str
    origin: Literal["paper-000", "paper-001", "paper-002", "paper-003", "paper-004", "own"]
    dataset: str = Field(description="a name from `robust data list`, or npz:PATH")
    partial: bool = Field(False, description="accept a data set with fewer rows than the official split")
    architecture: str = Field(description="a named architecture (methods of `robust model architectures`)")
    normalise: Literal["none", "dataset"] = Field("none", description="put the data set's mean/std in a first layer")
    method: Method = Plain(name="plain")
    eps: dict[NormName, Positive] = Field(min_length=1, description="radii for training and evaluation, per norm")
    norm: NormName | Literal["union"] = Field(description="the norm evaluated by default")
    training: Training = Training()
    published: list[Published] = Field(default_factory=list)

    @property
    def stages(self) -> int:
        """Parts of equal length that the training has."""
        return self.method.stages if isinstance(self.method, Colt) else 1

    @property
    def hash(self) -> str:
        """sha256 of all that determines the trained network (name, summary and published figures left out).

        Values equal to their default are left out, so that a new key with a default keeps the hashes of older runs;
        in exchange a default never changes its value.
        """
        left_out = {"name", "summary", "origin", "published", "norm"}
        content = self.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
