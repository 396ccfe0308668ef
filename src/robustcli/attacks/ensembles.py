"""Attacks that belong together, by name: each next one is asked only about the points that still stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from robustcli.attacks.registry import ALL, ROWS, row
from robustcli.errors import UnknownNameError, UsageError, one_line
from robustcli.norms import norm_name
from robustcli.recipes.fields import Strict


@dataclass(frozen=True)
class Member:
    """An attack of an ensemble, what it sets other than by default, and the norms where it is worth its place."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: tuple[float, ...] = ALL


ONE_RUN = {"steps": 50, "restarts": 1}
LIGHT = {"steps": 20, "restarts": 1, "targets": 9}
MANY = {"steps": 50, "restarts": 50, "targets": 0}
"""In l1, short runs from many places break more than longer ones, or ones against a class each, of as many passes."""
LINF, L2, L1, OTHERS = (math.inf,), (2.0,), (1.0,), (1.0, 2.0)

ENSEMBLES: dict[str, tuple[Member, ...]] = {
    "standard": (
        Member("apgd-margin", ONE_RUN),
        Member("apgd-wide", LIGHT, OTHERS),
        Member("apgd-t-dlr", norms=LINF),
        Member("relaxation", norms=LINF),
        Member("apgd-t", norms=LINF),
        Member("apgd-margin", norms=LINF),
        Member("apgd-wide", norms=L2 + LINF),
        Member("apgd-wide", MANY, L1),
        Member("relaxation", norms=OTHERS),
        Member("descent", norms=L1 + LINF),
        Member("fab", {"restarts": 0, "targets": 3}, L2),
        Member("fab", {"restarts": 1, "targets": 0}, L1),
    ),
    "quick": (Member("apgd-margin", ONE_RUN), Member("apgd-wide", LIGHT)),
    "paper-000": (Member("pgd", {"steps": 40, "restarts": 1}), Member("linear-region", {"regions": 400})),
    "paper-001": (
        Member("pgd", {"steps": 100, "restarts": 10}),
        Member("fab", {"steps": 100, "restarts": 10, "targets": 0}),
        Member("linear-region", {"regions": 400}, (2.0,)),
    ),
}
"""What an ensemble asks, in order. Attacks that do not know a norm are left out there."""

NEAREST_ENSEMBLES: dict[str, tuple[Member, ...]] = {
    "standard": (
        Member("nearest", {"rounds": 10, "steps": 50}),
        Member("fab", {"restarts": 0, "targets": 3}),
        Member("ddn", {"steps": 200}, (2.0,)),
        Member("polished"),
        Member("linear-region", {"regions": 50}, (2.0, math.inf)),
    ),
    "quick": (Member("nearest", {"rounds": 10, "steps": 50}),),
    "paper-000": (Member("carlini-wagner", {"searches": 20, "steps": 10000}),),
    "paper-001": (
        Member("fab", {"steps": 100, "restarts": 10, "targets": 0}),
        Member("linear-region", {"regions": 400}, (2.0,)),
    ),
}
"""For the smallest distance; those that can start from the nearest point that the others found. `standard` stays below
6000 passes a point of ten classes: what the searches leave is exact on its linear pieces in the end."""


class Chosen(Strict):
    """An attack with all its settings."""

    name: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, name: str, **options: Any) -> Chosen:
        """By name, with what is set other than by default.

        Raises:
            UsageError: for an unknown name, for settings that the attack does not have.
        """
        kind = row(name).settings
        try:
            return cls(name=name, settings=kind(**options).model_dump())
        except ValidationError as error:
            known = ", ".join(kind.model_fields) or "nothing to set"
            raise UsageError(f"attack {name}: {one_line(error)}", f"known: {known}") from error

    def resolved(self) -> Strict:
        """The settings as an object."""
        return row(self.name).settings(**self.settings)


def choose(names: Sequence[str], p: float, options: Mapping[str, Any] | None = None) -> list[Chosen]:
    """The attacks meant by names of attacks and ensembles, in order, each once.

    Args:
        names: `standard` where there are none.
        p: exponent of the ball.
        options: settings for all attacks that have them; None for the default.
    Raises:
        UnknownNameError: for a name that is neither.
        UsageError: for an attack named that does not know the ball; for settings that no attack has.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    used: set[str] = set()
    chosen: list[Chosen] = []
    for name in names or ("standard",):
        for member in _members(name, p):
            fields = row(member.name).settings.model_fields
            own = {key: value for key, value in given.items() if key in fields}
            used |= own.keys()
            chosen.append(Chosen.of(member.name, **{**member.options, **own}))
    for key in given.keys() - used:
        known = sorted({field for one in chosen for field in one.settings})
        raise UsageError(
            f"attack: none of {', '.join(dict.fromkeys(one.name for one in chosen))} has {key!r}",
            f"known: {', '.join(known)}",
        )
    return list({one.model_dump_json(): one for one in chosen}.values())


def _members(name: str, p: float) -> Sequence[Member]:
    if name in ENSEMBLES:
        members = [one for one in ENSEMBLES[name] if p in one.norms and p in row(one.name).norms]
        if not members:
            raise UsageError(f"no attack of {name} knows {norm_name(p)}", "choose other attacks with --attack")
        return members
    if name not in ROWS:
        raise UnknownNameError("attack", name, [*ROWS, *ENSEMBLES])
    if p not in ROWS[name].norms:
        knows = ", ".join(map(norm_name, ROWS[name].norms))
        raise UsageError(f"attack {name} does not know {norm_name(p)}", f"it knows {knows}; ensembles leave it out")
    return [Member(name)]
