"""`robust attack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robustcli.cli import common
from robustcli.norms import NORMS

if TYPE_CHECKING:
    from robustcli.evaluation.session import Session


@common.evaluation("attack", only=NORMS)
def attack(
    steps: Annotated[int, typer.Option("--steps", min=1, help="Gradient steps of each run.")] = 100,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Runs against all other classes.")] = 10,
    targets: Annotated[int, typer.Option("--targets", min=0, help="Runs against one other class each.")] = 3,
    attack_seed: Annotated[int, typer.Option("--attack-seed", min=0, help="Of the random starts.")] = 0,
) -> common.MakePlan:
    """Search for adversarial inputs: lower bounds on the robust test error.

    Projected gradient descent with restarts, and one run per other class. A success counts only after a float64 forward
    pass inside ball and box; every witness is stored and replayed for other questions about the same network.

    Example: robust attack --recipe digits-fc-at-linf --norm l1 --eps 0.6
    """

    def make(session: Session, norm: str) -> common.Plan:
        from robustcli.attacks.settings import PgdSettings
        from robustcli.evaluation.attack import Attacker, Settings

        settings = Settings(pgd=PgdSettings(steps=steps, restarts=restarts, targets=targets), seed=attack_seed)
        return common.Plan(Attacker(session.network, settings, session.run.witnesses), settings.model_dump())

    return make
