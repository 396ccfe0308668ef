"""`robust mip-verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robustcli.cli import common

if TYPE_CHECKING:
    from robustcli.evaluation.session import Session


@common.evaluation("mip-verify", only=("linf",))
def mip_verify(
    solver: Annotated[str, typer.Option("--solver", help="auto, gurobi or highs.")] = "auto",
    time_limit: Annotated[float, typer.Option("--time-limit", min=0, help="Seconds per point.")] = 120.0,
    attack: Annotated[bool, typer.Option("--attack/--no-attack", help="A light attack before the solver.")] = True,
    solver_threads: Annotated[int, typer.Option("--solver-threads", min=1, help="Threads of the solver.")] = 1,
) -> common.MakePlan:
    """Decide points exactly by mixed-integer programming (linf): lower and upper bounds on the robust test error.

    Bounds first, then a light attack, then one MIP per open target that minimises the margin and stops once its sign is
    settled. Gurobi is used where its licence allows the model, else HiGHS. A time-out is never a verdict.

    Example: robust mip-verify --recipe digits-fc-kw-linf --time-limit 60
    """

    def make(session: Session, norm: str) -> common.Plan:
        from robustcli.evaluation.exact import LIGHT, ExactVerifier, Settings

        settings = Settings(
            solver=solver, time_limit=time_limit, attack=LIGHT if attack else None, threads=solver_threads
        )
        return common.Plan(ExactVerifier(session.network, settings, session.run.witnesses), settings.model_dump())

    return make
