"""Runs that start far outside: search in a ball many times wider, then again and again in balls of half the radius.

Inside a small ball around a point, a network trained for another norm often has no useful gradient (its first ReLUs are
off wherever an image is black). Far away it has. On the way in, the point keeps to directions that matter. The idea is
the radius schedule of l1-APGD (arXiv 2103.01208, section 4: 3 eps, 2 eps, eps), here for all norms and much wider.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustcli.attacks.directions import direction
from robustcli.attacks.noise import uniform
from robustcli.attacks.projection import projector
from robustcli.attacks.search import Aim, search
from robustcli.attacks.settings import PgdSettings
from robustcli.balls import Ball
from robustcli.networks.network import Network

SHORTEST = 5
"""Steps below which a phase is not worth its place."""


@dataclass(frozen=True)
class Phase:
    """Search in a ball of `multiple` times the radius for some steps."""

    multiple: float
    steps: int


def phases(settings: PgdSettings) -> list[Phase]:
    """Radii halved from `settings.width` down to 1, the steps shared out evenly; the last phase gets what is left."""
    multiples = []
    multiple = settings.width if settings.step_size is None else 1.0
    while multiple > 1:
        multiples.append(multiple)
        multiple /= 2
    multiples = multiples[max(0, len(multiples) + 1 - settings.steps // SHORTEST) :]
    share = settings.steps // (len(multiples) + 1)
    return [*(Phase(multiple, share) for multiple in multiples), Phase(1.0, settings.steps - share * len(multiples))]


def scaled(ball: Ball, multiple: float) -> Ball:
    """The same balls with another radius."""
    return Ball(ball.center, ball.eps * multiple, ball.p, ball.box)


def random_start(ball: Ball, seeds: Tensor, stream: Tensor | int) -> Tensor:
    """A random point near the surface of each ball, [R, *input_shape]; the same for the same seed and stream."""
    flat = ball.center.flatten(1)
    move = direction(ball.p).start(uniform(seeds, stream, flat.shape[1])).to(flat.dtype)
    return projector(ball)((flat + move * ball.eps.unsqueeze(1)).view(ball.center.shape))


def wide_search(
    network: Network, ball: Ball, aim: Aim, seeds: Tensor, stream: Tensor | int, settings: PgdSettings
) -> Tensor:
    """The best point of each ball after all phases, from a random start in the widest; [R, *input_shape]."""
    plan = phases(settings)
    x = random_start(scaled(ball, plan[0].multiple), seeds, stream)
    for phase in plan:
        stage = scaled(ball, phase.multiple)
        x = search(network, stage, aim, projector(stage)(x), settings, phase.steps, freeze=phase.multiple == 1)
    return x
