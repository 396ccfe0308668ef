"""Settings of the attacks that know the network's linear pieces or its relaxation. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from robustcli.recipes.fields import Positive, Strict


class StartSettings(Strict):
    """How a first misclassified point is found where none is known."""

    rounds: int = Field(8, ge=1, description="radii tried until a success, each twice the last")
    steps: int = Field(50, ge=1, description="gradient steps at each radius")


class PolishSettings(Strict):
    """The nearest misclassified point of the linear piece that holds one, and of pieces beyond the faces in its way."""

    pieces: int = Field(8, ge=1, description="linear pieces looked at, at most")
    start: StartSettings = Field(default_factory=StartSettings, description="where no misclassified point is known")


class LinearRegionSettings(Strict):
    """The Linear Region Attack: the linear pieces of random points around the nearest misclassified point known."""

    regions: int = Field(100, ge=1, description="random points whose pieces are looked at (001 takes 400)")
    gamma: Positive = Field(
        6.0, description="points lie at the distance known, times r^gamma, from the nearest point known; r uniform"
    )
    tilted: float = Field(0.8, ge=0, le=1, description="share of the random directions that are tilted towards x")
    start: StartSettings = Field(default_factory=StartSettings, description="where no misclassified point is known")


class DescentSettings(Strict):
    """The lowest margin within the ball on the linear piece of a point, and on pieces beyond the faces in its way."""

    pieces: int = Field(12, ge=1, description="linear pieces looked at, at most")
    steps: int = Field(50, ge=1, description="gradient steps from the centre where no start is known")


class RelaxationSettings(Strict):
    """Searches that start where the linear lower bounds of the margins are smallest."""

    steps: int = Field(30, ge=1, description="gradient steps of each run; two runs a class")
    targets: int = Field(9, ge=1, description="classes aimed at, those of the lowest bounds first")


class LatentSettings(Strict):
    """Latent attacks of 002 as starts: error terms of the zonotopes behind the first ReLUs."""

    latent_steps: int = Field(50, ge=1, description="gradient steps on the error terms")
    step_size: Positive = Field(
        0.05, description="length of those, along the sign of the gradient; errors lie in [-1, 1]"
    )
    steps: int = Field(25, ge=1, description="gradient steps of the search from the input that they stand for")
    depth: int = Field(2, ge=1, description="ReLUs below the deepest zonotope; fewer where the network has fewer")
