"""`robust bound-distance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcli.cli import common

if TYPE_CHECKING:
    from robustcli.evaluation.batch import Evaluator
    from robustcli.evaluation.session import Session


@common.evaluation("bound-distance", radius=False)
def bound_distance(
    attack: Annotated[
        bool, typer.Option("--attack/--no-attack", help="Search with PGD where the region does not decide.")
    ] = True,
    attack_seed: Annotated[int, typer.Option("--attack-seed", min=0, help="Of the random starts.")] = 0,
) -> common.MakeEvaluator:
    """Bound the distance to the nearest adversarial input from both sides, exactly where the theory allows.

    Lower bounds: the linear region around the point, with and without the input box, and the universal radius for any
    p >= 1 (`--norm 1.5`). Upper bounds: points behind the decision hyperplanes and an attack that shrinks its radius.

    Example: robust bound-distance --recipe digits-fc-mmr-linf --norm l2
    """

    def make(session: Session, norm: str) -> tuple[Evaluator, dict[str, Any]]:
        from robustcli.evaluation.distance import DistanceBounder, Settings

        settings = Settings(attack=attack, seed=attack_seed)
        return DistanceBounder(session.network, settings, session.run.witnesses), settings.model_dump()

    return make
