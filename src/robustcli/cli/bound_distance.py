"""`robust bound-distance`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcli.cli import common
from robustcli.errors import UsageError
from robustcli.norms import any_exponent

if TYPE_CHECKING:
    from robustcli.evaluation.session import Session

UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30}


@common.evaluation("bound-distance", radius=False)
def bound_distance(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            help="region, boxed, neighbours, universal, kw, crown, alpha, complete; repeatable. (default: first five)",
        ),
    ] = None,
    regions: Annotated[
        str, typer.Option("--regions", metavar="M", help="Neighbouring regions to explore: a number, or all.")
    ] = "5",
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", min=0, help="Seconds a point for --method complete. (default: 60)")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--attack", "-a", metavar="NAME", help="Attack or ensemble, repeatable. (default: quick)"),
    ] = None,
    no_attack: Annotated[bool, typer.Option("--no-attack", help="No attack where the region does not decide.")] = False,
    each: Annotated[bool, typer.Option("--each", help="Every attack from scratch about every point.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Gradient steps of each run.")] = None,
    restarts: Annotated[int | None, typer.Option("--restarts", min=0, help="Runs against all other classes.")] = None,
    targets: Annotated[int | None, typer.Option("--targets", min=0, help="Runs against one other class each.")] = None,
    attack_seed: Annotated[int, typer.Option("--attack-seed", min=0, help="Of the random starts.")] = 0,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="For one piece of the work: 512M, 2G (megabytes without a letter)."
        ),
    ] = None,
) -> common.MakePlan:
    """Bound the distance to the nearest adversarial input from both sides, exactly where the theory allows.

    Lower bounds: the linear region around the point, with and without the input box; its neighbours, nearest first; the
    universal radius for any p >= 1 (`--norm 1.5`); the largest radius that the bound of KW, CROWN or alpha-CROWN
    certifies; on request the one that branch and bound verifies (`--method complete`), up to the nearest input found.
    Upper bounds: points behind decision hyperplanes, known witnesses, attacks in turn, each from the nearest point so
    far, and the nearest point of the pieces they end in.

    Examples:

      robust bound-distance --recipe digits-fc-mmr-linf --norm l2

      robust bound-distance --recipe digits-fc-mmr-linf --norm l2 --attack standard --method complete
    """
    if no_attack and (names or each):
        raise UsageError("--no-attack goes with neither --attack nor --each", "leave one of them out")
    values: dict[str, Any] = {
        "attack": not no_attack,
        "each": each,
        "seed": attack_seed,
        "regions": budget(regions),
    }
    options = {"steps": steps, "restarts": restarts, "targets": targets}
    if method is not None:
        values["methods"] = method
    if time_limit is not None:
        values["time_limit"] = time_limit
    if memory is not None:
        values["memory"] = size(memory)

    def make(session: Session, norm: str) -> common.Plan:
        from robustcli.evaluation.distance import DistanceBounder, Settings, check

        settings = Settings.named(names or (), any_exponent(norm), options, **values)
        check(settings, any_exponent(norm), session.box())
        return common.Plan(DistanceBounder(session.network, settings, session.run.witnesses), settings.model_dump())

    return make


def budget(text: str) -> int | None:
    """`--regions`: a number, or None for `all`.

    Raises:
        UsageError: for anything else.
    """
    if text.lower() == "all":
        return None
    if not text.isdecimal():
        raise UsageError(f"--regions {text!r} is not a number of regions", "write 5, or all")
    return int(text)


def size(text: str) -> int:
    """`--memory` in bytes: a number with K, M or G, of megabytes without.

    Raises:
        UsageError: for anything else, or for none at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    found = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if found <= 0:
        raise UsageError(f"--memory {text!r} is not an amount of memory", "write 512M or 2G")
    return found
