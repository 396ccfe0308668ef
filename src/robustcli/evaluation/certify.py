"""`robust certify`: a cascade of sound bounds, and on request of everything that decides a point completely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pydantic import Field, field_validator, model_validator

from robustcli.bounds.alpha import alpha
from robustcli.bounds.ball_offset import ball_offset
from robustcli.bounds.crown import crown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.bounds.precision import in_single
from robustcli.bounds.types import MarginBounds
from robustcli.bounds.zonotope import zonotope, zonotope_per_class
from robustcli.errors import UnknownNameError, UsageError
from robustcli.evaluation.batch import BOUNDED, Batch
from robustcli.evaluation.cascade import Budget, Cascade, Context, Stage
from robustcli.evaluation.forecast import Forecast
from robustcli.evaluation.partial_mip import PartialMip, Refinement
from robustcli.evaluation.stages import Attack, Bound, BranchAndBound, LinearPrograms, Searched
from robustcli.networks.network import Network
from robustcli.norms import norm_name
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Place

BOUNDS: dict[str, Callable[..., MarginBounds]] = {
    "interval": interval,
    "crown-ibp": crown_ibp,
    "dual": in_single(dual),
    "crown": in_single(crown),
    "zonotope": zonotope,
    "zonotope-per-class": zonotope_per_class,
    "alpha": alpha,
    "ball-offset": ball_offset,
}
"""Every bound by name, cheapest first: `bound(network, ball, rows, *, known, outward)`, one file each in
`robustcli.bounds`."""

KINDS: dict[str, Callable[[Callable[..., MarginBounds]], Bound]] = {
    "zonotope": partial(Searched, argument="settings", field="zonotope"),
    "zonotope-per-class": partial(Searched, argument="settings", field="zonotope"),
    "alpha": Searched,
    "ball-offset": partial(Searched, exponents=(2.0,)),
}
"""How a bound is asked that takes more than known bounds, or does not know every ball."""

QUICK = ("interval", "dual", "crown")
"""The default: bounds that take milliseconds a point."""

COMPLETE = (*QUICK, "attack", "branch-and-bound")
"""`--complete`. The attack comes after the quick bounds, which decide most points of a robust network sooner; branch
and bound optimises slopes and hidden bounds itself, as far as a point needs it, so alpha before it only costs."""

SECONDS = 60.0
"""The default time limit per point, where neither limit is given."""


def stages() -> dict[str, Stage]:
    """Every stage by name, in the order in which they are listed."""
    bounds: dict[str, Stage] = {name: KINDS.get(name, Bound)(bound) for name, bound in BOUNDS.items()}
    return {
        **bounds,
        "attack": Attack(),
        "lp": LinearPrograms(),
        "refine": Refinement(),
        "partial-mip": PartialMip(),
        "branch-and-bound": BranchAndBound(),
    }


OPTIONS = {
    "time_limit": ("limits branch and bound, which is not asked for", "add --complete"),
    "max_nodes": ("limits branch and bound, which is not asked for", "add --complete"),
    "refine_layer": ("says what --method refine tightens", "add --method refine"),
    "exact_from_layer": ("says what --method partial-mip encodes exactly", "add --method partial-mip"),
    "max_binary": ("says what --method partial-mip encodes exactly", "add --method partial-mip"),
}
"""Fields that a user sets for chosen stages only: what is wrong, and what to do, where none of those is asked for."""


class Settings(Budget):
    """How to certify."""

    methods: list[str] = Field(default=list(QUICK), min_length=1, description="stages, in order")

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: list[str]) -> list[str]:
        known = stages()
        for name in methods:
            if name not in known:
                raise UnknownNameError("method", name, known)
        return list(dict.fromkeys(methods))

    @model_validator(mode="after")
    def _sensible(self) -> Settings:
        built = next((name for name in self.methods if self.chosen[name].builds), None)
        if built is not None and not any(name in BOUNDS for name in self.methods[: self.methods.index(built)]):
            raise UsageError(f"--method {built} starts from bounds", f"put one first: --method dual --method {built}")
        for field, (wrong, hint) in OPTIONS.items():
            if getattr(self, field) != type(self).model_fields[field].default and field not in self.heeded:
                raise UsageError(f"--{field.replace('_', '-')} {wrong}", hint)
        return self

    @property
    def chosen(self) -> dict[str, Stage]:
        """The stages, in order."""
        known = stages()
        return {name: known[name] for name in self.methods}

    @property
    def heeded(self) -> set[str]:
        """The fields that the answers of the chosen stages depend on."""
        return {field for stage in self.chosen.values() for field in stage.depends}

    @property
    def asked(self) -> dict[str, Any]:
        """What belongs to the question: the stages, and the settings that these depend on."""
        return self.model_dump(include={"methods", *self.heeded})


def resolve(
    p: float,
    boxed: bool,
    methods: Sequence[str] | None = None,
    *,
    complete: bool = False,
    time_limit: float | None = None,
    max_nodes: int | None = None,
    seed: int = 0,
    **options: int | None,
) -> Settings:
    """The settings for one kind of ball: default stages where none are named, those that do not know the ball left out.

    Args:
        p: exponent of the ball.
        boxed: whether it is cut with the box.
        methods: stages as named by the user.
        complete: all stages up to branch and bound.
        time_limit: seconds per point; without `max_nodes` complete verification stops after SECONDS.
        max_nodes: branch-and-bound nodes per point.
        seed: of the attack.
        options: of `refine` and `partial-mip` (`Budget`); None for the default.
    Raises:
        UsageError: for `methods` together with `complete`, for unknown names, for stages none of which knows the ball.
    """
    if methods is not None and complete:
        raise UsageError("--method and --complete both choose the stages", "give one of them")
    names = list(methods or (COMPLETE if complete else QUICK))
    # Every first-layer unit reaches differently far in an l1 or l2 ball cut with the box: `interval` needs them all,
    # `dual` only those that its quick bounds leave open.
    if methods is None and boxed and not math.isinf(p):
        names.remove("interval")
    known = Settings(methods=names).chosen
    fitting = [name for name, stage in known.items() if stage.applies(p)]
    if not fitting:
        raise UsageError(f"--method {', --method '.join(known)} does not know {norm_name(p)}", "choose another method")
    given = {name: value for name, value in options.items() if value is not None}
    settings = Settings(methods=fitting, max_nodes=max_nodes, seed=seed, **given)
    if time_limit is None and max_nodes is None and "time_limit" in settings.heeded:
        time_limit = SECONDS
    return Settings(**{**dict(settings), "time_limit": time_limit})


class Certifier:
    """Certifies points of one network.

    Args:
        network: as stored; attacks search in its precision, everything that counts is float64.
        settings: which stages, and how hard they try.
        witnesses: where misclassified inputs are kept, or None to keep none.
    """

    def __init__(self, network: Network, settings: Settings, witnesses: Place | None = None) -> None:
        self.network, self.settings = network, settings
        self.context = Context(network, network.double(), settings, witnesses)
        self.cascade = Cascade(settings.chosen, self.context)
        self.batch_size = BOUNDED.get(network.device.type, BOUNDED["cpu"])

    def __call__(self, batch: Batch) -> Iterator[PointRecord]:
        """One record a point, as soon as it is decided."""
        return self.cascade(batch)


class FirstPass:
    """The quick bounds that a certifier begins with, over all points before the long work: it decides what they decide,
    and makes a forecast about the rest.

    Args:
        certifier: of the long work.
    """

    def __init__(self, certifier: Certifier) -> None:
        chosen = certifier.settings.chosen
        first = next((place for place, name in enumerate(chosen) if name not in QUICK), len(chosen))
        self.forecast = Forecast(certifier.network, certifier.settings)
        quick = dict(list(chosen.items())[:first])
        self.cascade = Cascade(quick, certifier.context, postponed=self.forecast.add)
        self.batch_size = certifier.batch_size

    @classmethod
    def before(cls, certifier: Certifier) -> FirstPass | None:
        """None where no stage takes long, or the first one does."""
        names = certifier.settings.methods
        long = any(stage.alone for stage in certifier.settings.chosen.values())
        return cls(certifier) if long and names[0] in QUICK else None

    def __call__(self, batch: Batch) -> Iterator[PointRecord]:
        """Records of the points decided."""
        return self.cascade(batch)
