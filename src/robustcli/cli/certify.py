"""`robust certify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcli.cli import common

if TYPE_CHECKING:
    from robustcli.evaluation.batch import Evaluator
    from robustcli.evaluation.session import Session


@common.evaluation("certify")
def certify(
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="interval or dual; repeatable. (default: best of all)")
    ] = None,
) -> common.MakeEvaluator:
    """Prove robustness by bounds: upper bounds on the robust test error.

    A point is certified when a lower bound on every margin over the whole ball is positive, in float64 and safe against
    rounding, the bounds of the hidden layers included. The best of all methods counts, point by point.

    Example: robust certify --recipe digits-fc-kw-linf --norm linf --eps 0.1
    """

    def make(session: Session, norm: str) -> tuple[Evaluator, dict[str, Any]]:
        from robustcli.evaluation.certify import Certifier, Settings

        settings = Settings() if method is None else Settings(methods=method)
        return Certifier(session.exact, settings), settings.model_dump()

    return make
