"""Adversarial inputs of one norm that lie in the balls of other norms as well (001 Table 3).

For norms p and q, of the misclassified inputs found within eps_p in l_p:

    share of those with  ||witness - point||_q <= eps_q

Near 0 both ways, the two kinds of perturbations have nothing to do with each other, and eps_p, eps_q ask for two
different things. Measured from stored witnesses, a point counting once. A witness that was only replayed was found for
another ball and is left out. The nearest inputs that `bound-distance` found are counted apart: they are as small as can
be in l_p, while an attack spends the whole ball.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from robustcli.norms import EXPONENT
from robustcli.results import distances
from robustcli.results.attacks import REPLAY
from robustcli.results.merge import Answers
from robustcli.results.models import Model
from robustcli.results.rows import radii, rows
from robustcli.results.schema import PointRecord, Record
from robustcli.results.witnesses import load

COMMANDS = ("attack", "certify", "mip-verify")
"""Whose witness counts for a point, in this order."""


class ContainmentRow(Record):
    """One line of the table: one model, one radius a norm."""

    name: str
    recipe: str | None
    seed: int | None
    model: str
    dataset: str
    boxed: bool
    eps: dict[str, float]
    kind: Literal["within", "nearest"] = Field(description="inputs found within eps, or the nearest ones within eps")
    replayed: dict[str, int] = Field(
        default={}, description="norm p -> points left out: a witness found for another ball"
    )
    found: dict[str, int] = Field(description="norm p -> inputs found within eps_p in l_p, one a point at most")
    shares: dict[str, dict[str, float]] = Field(description="norm p -> norm q -> share of these within eps_q in l_q")


def containment_rows(model: Model) -> list[ContainmentRow]:
    """The rows of one model: per combination of radii asked about, else the recipe's, and per kind of input."""
    asked = {(bool(row.boxed), tuple(row.eps.items())): None for row in rows(model)}
    if not asked and model.recipe is not None:
        asked = {(answer.question.boxed, tuple(radii(model.recipe).items())): None for answer in model.answers}
    found = []
    for boxed, items in asked:
        eps = dict(items)
        broken = {norm: _broken(model.answers, boxed, norm, value) for norm, value in eps.items()}
        within = {norm: [one for one in some if one.method != REPLAY] for norm, some in broken.items()}
        replayed = {norm: left for norm, some in broken.items() if (left := len(some) - len(within[norm]))}
        nearest = {norm: _nearest(model.answers, boxed, norm, value) for norm, value in eps.items()}
        found += [
            _row(model, boxed, eps, "within", within, replayed),
            _row(model, boxed, eps, "nearest", nearest, {}),
        ]
    return [row for row in found if row is not None]


def _row(
    model: Model,
    boxed: bool,
    eps: Mapping[str, float],
    kind: Literal["within", "nearest"],
    records: Mapping[str, Iterable[PointRecord]],
    replayed: dict[str, int],
) -> ContainmentRow | None:
    """The shares; None without two norms, or without inputs."""
    moves = {norm: list(filter(None, (_lengths(model, one) for one in some))) for norm, some in records.items()}
    moves = {norm: some for norm, some in moves.items() if some}
    if len(eps) < 2 or not moves:
        return None
    shares = {
        p: {q: sum(move[q] <= eps[q] for move in some) / len(some) for q in eps if q != p} for p, some in moves.items()
    }
    counts = {norm: len(some) for norm, some in moves.items()}
    return ContainmentRow(
        **model.identity, boxed=boxed, eps=dict(eps), kind=kind, replayed=replayed, found=counts, shares=shares
    )


def _lengths(model: Model, record: PointRecord) -> dict[str, float] | None:
    """The length of a record's perturbation in every norm; None where its witness is not stored with the run."""
    path = model.run.witnesses / str(record.witness)
    if record.witness is None or not path.is_file():
        return None
    stored = load(path)
    move = (stored.witness - stored.point).ravel()
    return {norm: float(np.linalg.norm(move, p)) for norm, p in EXPONENT.items()}


def _broken(answers: Iterable[Answers], boxed: bool, norm: str, eps: float) -> list[PointRecord]:
    """A record for every point that was broken in this ball, if there is one, of a search of its own."""
    found: dict[int, PointRecord] = {}
    wanted = [answer for answer in answers if (answer.question.norm, answer.question.eps) == (norm, eps)]
    for answer in sorted(wanted, key=lambda answer: COMMANDS.index(answer.question.command)):
        if answer.question.boxed == boxed:
            for record in answer.records:
                known = found.get(record.index)
                if record.verdict == "vulnerable" and (known is None or known.method == REPLAY):
                    found[record.index] = record
    return list(found.values())


def _nearest(answers: Iterable[Answers], boxed: bool, norm: str, eps: float) -> list[PointRecord]:
    """The record with the nearest misclassified input of every point that has one within eps."""
    found: dict[int, PointRecord] = {}
    for answer in answers:
        question = answer.question
        if (question.command, question.norm, question.boxed) == ("bound-distance", norm, boxed):
            for record in answer.records:
                reached = distances.distance(record, "upper")
                other = found.get(record.index)
                if 0 < reached <= eps and (other is None or reached < distances.distance(other, "upper")):
                    found[record.index] = record
    return list(found.values())
