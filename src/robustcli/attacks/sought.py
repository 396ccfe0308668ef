"""Attacks for the smallest distance, by name: those of the registry whose goal is `nearest`.

Attacks with a fixed radius answer another question: whether a ball holds a misclassified point at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from robustcli.attacks.ensembles import ENSEMBLES, NEAREST_ENSEMBLES, Chosen, Member
from robustcli.attacks.registry import ALL, ROWS, Row
from robustcli.errors import UnknownNameError, UsageError, one_line
from robustcli.norms import norm_name

SOUGHT: dict[str, Row] = {name: row for name, row in ROWS.items() if row.goal == "nearest"}
"""Every attack for the smallest distance."""


def searched_norms(p: float) -> list[float]:
    """The norms in which a point near in l_p is searched for: p itself, or those on both sides of it."""
    return [p] if p in ALL else [2.0, 1.0 if p < 2 else math.inf]


def sought(name: str, **options: Any) -> Chosen:
    """An attack for the smallest distance, with what is set other than by default.

    Raises:
        UnknownNameError: for an unknown name.
        UsageError: for an attack with a fixed radius; for settings that the attack does not have.
    """
    kind = _row(name).settings
    try:
        return Chosen(name=name, settings=kind(**options).model_dump())
    except ValidationError as error:
        known = ", ".join(kind.model_fields)
        raise UsageError(f"attack {name}: {one_line(error)}", f"known: {known}") from error


def seek(names: Sequence[str], p: float, options: Mapping[str, Any] | None = None) -> list[Chosen]:
    """The attacks meant by names of attacks and ensembles, in order, each once.

    Args:
        names: at least one.
        p: exponent of the norm, any p >= 1.
        options: settings for all attacks that have them; None for the default.
    Raises:
        UnknownNameError: for a name that is neither.
        UsageError: for an attack with a fixed radius, or named for a norm that it does not know; for settings that no
            attack has.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    members = [member for name in names for member in _members(name, p)]
    fields = {member.name: _row(member.name).settings.model_fields for member in members}
    for key in given:
        if not any(key in known for known in fields.values()):
            raise UsageError(f"attack: none of {', '.join(fields)} has {key!r}")
    chosen = [
        sought(one.name, **{**one.options, **{key: given[key] for key in given if key in fields[one.name]}})
        for one in members
    ]
    return list({one.model_dump_json(): one for one in chosen}.values())


def distinct(names: Sequence[str]) -> list[str]:
    """The names with a number where one is asked several times: fab, fab-2."""
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [name if not count else f"{name}-{count + 1}" for name, count in zip(names, before, strict=True)]


def _members(name: str, p: float) -> Sequence[Member]:
    norms = searched_norms(p)
    if name in NEAREST_ENSEMBLES:
        members = [
            one for one in NEAREST_ENSEMBLES[name] if any(q in one.norms and q in _row(one.name).norms for q in norms)
        ]
        if not members:
            raise UsageError(f"no attack of {name} knows {norm_name(p)}", "choose other attacks with --attack")
        return members
    known = _row(name).norms
    if not set(known) & set(norms):
        raise UsageError(
            f"attack {name} does not know {norm_name(p)}",
            f"it knows {', '.join(map(norm_name, known))}; ensembles leave it out",
        )
    return [Member(name)]


def _row(name: str) -> Row:
    """One attack by name.

    Raises:
        UnknownNameError: when there is none.
        UsageError: for attacks and ensembles with a fixed radius.
    """
    if name in SOUGHT:
        return SOUGHT[name]
    if name in ROWS or name in ENSEMBLES:
        raise UsageError(
            f"attack {name} looks for any misclassified point of a ball, not for the nearest one",
            f"`robust attack --attack {name} --eps E` asks that; for distances: "
            f"{', '.join([*NEAREST_ENSEMBLES, *SOUGHT])}",
        )
    raise UnknownNameError("attack", name, [*SOUGHT, *NEAREST_ENSEMBLES])
