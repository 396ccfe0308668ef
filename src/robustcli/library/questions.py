"""certify, attack and distance: each question as its command asks it, without files.

The evaluators, the clean check and the records are those of the commands (`robustcli.evaluation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robustcli.errors import UsageError, one_line
from robustcli.evaluation import attack as attacking
from robustcli.evaluation import certify as certifying
from robustcli.evaluation import distance as bounding
from robustcli.library.answers import Distances, Verdicts
from robustcli.library.asking import Given, Progress, ask
from robustcli.library.frames import Normalised
from robustcli.norms import exponent
from robustcli.results.witnesses import Witness

Radius = str | float | Sequence[float] | Tensor


def certify(
    model: nn.Module,
    points: Tensor,
    labels: Tensor,
    *,
    norm: str,
    eps: Radius,
    box: Given = None,
    inputs: Normalised | None = None,
    methods: Sequence[str] | None = None,
    complete: bool = False,
    time_limit: float | None = None,
    max_nodes: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdicts:
    """Prove that no input of a ball around each point changes its class: `robust certify`.

    Args:
        model: an `nn.Sequential` (see `convert`), or a `Network` of `load`.
        points: [N, *input_shape], float32 or float64, tensor or array.
        labels: true classes, [N].
        norm: l1, l2 or linf.
        eps: radius: a number, a fraction as text ("8/255"), or one number per channel (C numbers, or a tensor
            [C, 1, 1]): then the ball is || (x - x0) / eps_c ||_p <= 1, for l2 an ellipsoid.
        box: (lower, upper) of what inputs can be, each one number or one per channel; the ball is cut with it. None:
            the whole ball.
        inputs: how the points were normalised outside the network; eps and box are then in pixels.
        methods: stages by name, in order; None takes the default of the command.
        complete: decide every point, by a proof or by a misclassified input.
        time_limit: seconds per point; 60 for complete verification without any limit.
        max_nodes: branch-and-bound domains per point.
        seed: of the attack's random starts.
        progress: told (answered, all) as points are decided.
    Returns:
        verdicts, margins proved, witnesses.
    Raises:
        UsageError: for a model that cannot be read, or a question that cannot be asked.
    """
    with torch.random.fork_rng(devices=[]):
        asked = ask(model, points, labels, norm, eps, box, inputs)
        settings = certifying.resolve(
            asked.ball.p,
            asked.ball.box is not None,
            methods,
            complete=complete,
            time_limit=time_limit,
            max_nodes=max_nodes,
            seed=seed,
        )
        kept: dict[str, Witness] = {}
        evaluator = certifying.Certifier(asked.network, settings, kept)
        return Verdicts(f"certify: {asked.words}", *asked.answered(evaluator, kept, progress))


def attack(
    model: nn.Module,
    points: Tensor,
    labels: Tensor,
    *,
    norm: str,
    eps: Radius,
    box: Given = None,
    inputs: Normalised | None = None,
    attack: str | Sequence[str] = "standard",
    each: bool = False,
    budget: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Verdicts:
    """Search each ball for a misclassified input: `robust attack`. Arguments as in `certify`, and

    Args:
        attack: attacks and ensembles by name, in order.
        each: ask every attack about every point; else only about those that still stand.
        budget: passes per point, or a time for all points as text ("60s", "5m").
        options: steps, restarts, targets and what else the attacks have (`attacks.settings`), for all that have it.
    Returns:
        `vulnerable` with a witness, or `unknown`: a search proves nothing.
    Raises:
        UsageError: for a model that cannot be read, or a question that cannot be asked.
    """
    with torch.random.fork_rng(devices=[]):
        asked = ask(model, points, labels, norm, eps, box, inputs)
        names = [attack] if isinstance(attack, str) else attack
        limit = None if budget is None else str(budget)
        settings = attacking.Settings.named(names, asked.ball.p, each=each, budget=limit, seed=seed, **options)
        kept: dict[str, Witness] = {}
        evaluator = attacking.Attacker(asked.network, settings, kept)
        return Verdicts(f"attack: {asked.words}", *asked.answered(evaluator, kept, progress))


def distance(
    model: nn.Module,
    points: Tensor,
    labels: Tensor,
    *,
    norm: str,
    box: Given = None,
    inputs: Normalised | None = None,
    attacks: str | Sequence[str] = (),
    progress: Progress | None = None,
    **options: Any,
) -> Distances:
    """Bound the distance of each point to the nearest misclassified input: `robust bound-distance`. Arguments as in
    `certify`, and

    Args:
        attacks: attacks and ensembles for the smallest distance by name, in order; none takes the default of the
            command.
        options: methods, regions, attack, each, seed, polish and what else `evaluation.distance.Settings` has.
    Returns:
        certified distances, those of the nearest misclassified inputs found, and these inputs.
    Raises:
        UsageError: for a model that cannot be read, or a question that cannot be asked.
    """
    names = [attacks] if isinstance(attacks, str) else attacks
    try:
        settings = bounding.Settings.named(names, exponent(norm), {}, **options)
    except ValidationError as error:
        raise UsageError(
            f"distance: {one_line(error)}", f"known: {', '.join(bounding.Settings.model_fields)}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        asked = ask(model, points, labels, norm, None, box, inputs)
        bounding.check(settings, asked.ball.p, asked.ball.box)
        kept: dict[str, Witness] = {}
        evaluator = bounding.DistanceBounder(asked.network, settings, kept)
        return Distances(f"distance: {asked.words}", *asked.answered(evaluator, kept, progress))
