"""`robust certify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcli.cli import common
from robustcli.norms import any_exponent

if TYPE_CHECKING:
    from robustcli.evaluation.session import Session
    from robustcli.results.schema import PointRecord, Question


@common.evaluation("certify")
def certify(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="A stage, repeatable, in order: interval, crown-ibp, dual, crown, zonotope, zonotope-per-class, "
            "alpha, ball-offset, attack, lp, refine, partial-mip, branch-and-bound. (default: interval, dual, crown)",
        ),
    ] = None,
    complete: Annotated[bool, typer.Option("--complete", help="Attack and all stages up to branch and bound.")] = False,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", min=0, help="Seconds per point. (default: 60; none with --max-nodes)"),
    ] = None,
    max_nodes: Annotated[
        int | None, typer.Option("--max-nodes", min=1, help="Branch-and-bound nodes per point; reproducible.")
    ] = None,
    refine_layer: Annotated[
        int | None, typer.Option("--refine-layer", min=1, help="Hidden layer that refine tightens. (default: 2)")
    ] = None,
    exact_from_layer: Annotated[
        int | None,
        typer.Option(
            "--exact-from-layer", min=1, help="First hidden layer that partial-mip encodes exactly. (default: last)"
        ),
    ] = None,
    max_binary: Annotated[
        int | None, typer.Option("--max-binary", min=0, help="Neurons exact in partial-mip. (default: any number)")
    ] = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="Also count inputs flagged as possibly adversarial.")
    ] = False,
    attack_seed: Annotated[int, typer.Option("--attack-seed", min=0, help="Of the random starts.")] = 0,
) -> common.MakePlan:
    """Prove robustness: upper bounds on the robust test error, and with --complete the robust test error itself.

    Stages run one after the other, cheap ones first, each on the points and classes that are still open. A point is
    certified when lower bounds on all its margins over the whole ball are positive, in float64 and safe against
    rounding, the bounds of the hidden layers included.

    Example: robust certify --recipe digits-fc-kw-linf --norm union --complete
    """

    def make(session: Session, norm: str) -> common.Plan:
        from robustcli.evaluation.certify import Certifier, FirstPass, resolve
        from robustcli.evaluation.detection import Detector

        settings = resolve(
            any_exponent(norm),
            session.box() is not None,
            method,
            complete=complete,
            time_limit=time_limit,
            max_nodes=max_nodes,
            seed=attack_seed,
            refine_layer=refine_layer,
            exact_from_layer=exact_from_layer,
            max_binary=max_binary,
        )
        certifier = Certifier(session.network, settings, session.run.witnesses)

        def detection(question: Question, records: Mapping[int, PointRecord]) -> dict[str, Any]:
            return {"detection": Detector(session, question, settings)(records)}

        return common.Plan(certifier, settings.asked, FirstPass.before(certifier), detection if detect else None)

    return make
