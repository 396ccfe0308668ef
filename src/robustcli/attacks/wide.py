"""Runs that start outside the ball: search in a wider ball, then again and again in narrower ones.

Inside a small ball around a point, a network trained for another norm often has no useful gradient (its first ReLUs are
off wherever an image is black). Far away it has. On the way in, the point keeps to directions that matter. The idea is
the radius schedule of l1-APGD (arXiv 2103.01208, section 4: 3 eps, 2 eps, eps), here for all norms and much wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from robustcli.attacks.directions import direction
from robustcli.attacks.noise import uniform
from robustcli.attacks.pace import Constant, pace
from robustcli.attacks.projection import projector
from robustcli.attacks.search import Aim, Reached, descend
from robustcli.attacks.settings import WideSettings
from robustcli.balls import Ball
from robustcli.networks.network import Network

SHORTEST = 5
"""Steps below which a phase is not worth its place."""

LARGE_EPS = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""The schedule of l1-APGD: radii in units of eps, and their shares of the steps."""


@dataclass(frozen=True)
class Phase:
    """Search in a ball of `multiple` times the radius for some steps."""

    multiple: float
    steps: int


def phases(settings: WideSettings) -> list[Phase]:
    """Radii halved from `settings.width` down to 1, the steps shared out evenly; the last phase gets what is left."""
    multiples = []
    multiple = settings.width if settings.step_size is None else 1.0
    while multiple > 1:
        multiples.append(multiple)
        multiple /= 2
    multiples = multiples[max(0, len(multiples) + 1 - settings.steps // SHORTEST) :]
    share = settings.steps // (len(multiples) + 1)
    return [*(Phase(multiple, share) for multiple in multiples), Phase(1.0, settings.steps - share * len(multiples))]


def large_eps(steps: int) -> list[Phase]:
    """The phases of l1-APGD; the last one gets what is left."""
    first = [Phase(multiple, int(share * steps)) for multiple, share in LARGE_EPS[:-1]]
    return [*(phase for phase in first if phase.steps), Phase(1.0, steps - sum(phase.steps for phase in first))]


def scaled(ball: Ball, multiple: float) -> Ball:
    """The same balls with another radius."""
    return Ball(ball.center, ball.eps * multiple, ball.p, ball.box)


def random_start(ball: Ball, seeds: Tensor, stream: Tensor | int) -> Tensor:
    """A random point near the surface of each ball, [R, *input_shape]; the same for the same seed and stream."""
    flat = ball.center.flatten(1)
    move = direction(ball.p).start(uniform(seeds, stream, flat.shape[1])).to(flat.dtype)
    return projector(ball)((flat + move * ball.eps.unsqueeze(1)).view(ball.center.shape))


def wide_search(
    network: Network, ball: Ball, aim: Aim, seeds: Tensor, stream: Tensor | int, settings: WideSettings
) -> Tensor:
    """The best point of each ball after all phases, from a random start in the widest; [R, *input_shape]."""
    plan = phases(settings)
    start = random_start(scaled(ball, plan[0].multiple), seeds, stream)
    return inwards(network, ball, aim, start, plan, lambda stage, steps: pace(stage, settings, steps)).points


def inwards(
    network: Network,
    ball: Ball,
    aim: Aim,
    start: Tensor,
    plan: Sequence[Phase],
    paces: Callable[[Ball, int], Constant],
) -> Reached:
    """The best point of each ball after all phases.

    Args:
        network, ball, aim: as for `descend`.
        start: in the ball of the first phase, [R, *input_shape].
        plan: the last phase in the ball itself; a row stops at a success only there.
        paces: from the ball of a phase and its steps to how long they are.
    """
    reached = Reached(start, aim.labels * 0)
    for phase in plan:
        stage = scaled(ball, phase.multiple)
        onto, steps = paces(stage, phase.steps), phase.steps
        found = descend(network, stage, aim, projector(stage)(reached.points), onto, steps, freeze=phase.multiple == 1)
        reached = Reached(found.points, reached.passes + found.passes)
    return reached
