"""`robust attack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robustcli.cli import common
from robustcli.errors import UsageError
from robustcli.norms import NORMS

if TYPE_CHECKING:
    from robustcli.evaluation.session import Session


@common.evaluation("attack", only=NORMS)
def attack(
    names: Annotated[
        list[str] | None,
        typer.Option("--attack", "-a", metavar="NAME", help="Attack or ensemble, repeatable. (default: standard)"),
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Ask every attack about every point.")] = False,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Passes per point (2000), or time for all points (60s, 5m).")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Gradient steps of each run.")] = None,
    restarts: Annotated[int | None, typer.Option("--restarts", min=0, help="Runs against all other classes.")] = None,
    targets: Annotated[int | None, typer.Option("--targets", min=0, help="Runs against one other class each.")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Only check all stored witnesses again.")] = False,
    attack_seed: Annotated[int, typer.Option("--attack-seed", min=0, help="Of the random starts.")] = 0,
) -> common.MakePlan:
    """Search for adversarial inputs: lower bounds on the robust test error.

    Attacks in turn, each on the points that still stand. A success counts only after a float64 forward pass inside ball
    and box; every witness is stored and replayed for other questions about the same network.

    Example: robust attack --recipe digits-fc-at-linf --norm l1 --eps 0.6
    """

    if replay and (names or each or budget or any(value is not None for value in (steps, restarts, targets))):
        raise UsageError("--replay searches for nothing: it takes no other option of attacks", "ask without --replay")

    def make(session: Session, norm: str) -> common.Plan | common.Checked:
        if replay:
            from robustcli.evaluation.replay import Replay

            done = Replay(session.exact, session.model_hash, session.run.witnesses, session.data)
            return common.Checked(str(done), done.document(), done.problem)
        from robustcli.evaluation.attack import Attacker, Settings
        from robustcli.norms import exponent

        settings = Settings.named(
            names or (),
            exponent(norm),
            each=each,
            budget=budget,
            seed=attack_seed,
            steps=steps,
            restarts=restarts,
            targets=targets,
        )
        attacker = Attacker(session.network, settings, session.run.witnesses)
        if attacker.budget.seconds is not None and session.selection.batch_size is not None:
            raise UsageError(
                "--batch-size with a --budget of time: each attack goes through all points before the next one starts",
                "leave one of them out, or give the budget in passes",
            )
        return common.Plan(attacker, settings.model_dump())

    return make
