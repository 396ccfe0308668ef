"""Sides of the comparison at work: which points are worth attacking, and what one attack finds on 64 of them.

Every answer is appended to a file as one line, so that a comparison goes on where it stopped. A candidate of whatever
origin is projected into ball and box and judged in float64 (`attacks.verify`); peers without a radius are given a
second chance, 1e-5 further out, where their point lies on the border up to rounding.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from attack_peers import PEERS, Counted, candidates
from attack_table import NORMS, Pair, Question
from peers import sequential
from torch import Tensor

from robustcli.attacks.contract import Found, Task, lowest_margin, shortest
from robustcli.attacks.noise import point_seeds
from robustcli.balls import Ball
from robustcli.evaluation.session import Selection, Session, open_session
from robustcli.library.questions import certify

BOX = (0.0, 1.0)
ROWS = 64
OVERSHOOT = 1e-5
Answer = tuple[Found, dict[str, float]]
Side = Callable[["Net", Task, list[int]], Answer]
"""Points as a task and their rows -> what was found, and what it cost."""


class Net:
    """A trained network by recipe name and the first points of its test set."""

    def __init__(self, name: str, points: int) -> None:
        self.session: Session = open_session(Selection(recipe=name, points=str(points), device="cpu"))
        self.network, self.exact = self.session.network, self.session.exact
        self.model = sequential(self.network)

    def rows(self, index: list[int]) -> tuple[Tensor, Tensor]:
        """Points in float64, and labels."""
        rows = torch.tensor(index, dtype=torch.int64)
        return self.session.data.points(rows), self.session.data.labels_tensor(rows)

    def task(self, index: list[int], norm: str, eps: float) -> Task:
        """The balls of some points, seeded by their rows."""
        points, labels = self.rows(index)
        ball = Ball(points, torch.full((len(index),), eps, dtype=torch.float64), NORMS[norm], BOX)
        return Task.of(self.network, ball, labels, point_seeds(0, torch.tensor(index)), exact=self.exact)

    @torch.no_grad()
    def correct(self) -> list[int]:
        """Rows that are classified correctly, in float64."""
        points, labels = self.rows(self.session.indices)
        right = self.exact(points).argmax(1) == labels
        return [row for row, is_right in zip(self.session.indices, right.tolist(), strict=True) if is_right]


class Cells:
    """The lines of one question: `{side, points, ...}`, appended as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines: list[dict[str, Any]] = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def add(self, line: dict[str, Any]) -> None:
        """Append one line."""
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, side: str) -> list[dict[str, Any]]:
        """The lines of one side."""
        return [line for line in self.lines if line["side"] == side]

    def merged(self, side: str, field: str) -> dict[str, Any]:
        """One field of a side, by point."""
        return {point: value for line in self.of(side) for point, value in line.get(field, {}).items()}

    def forget(self, sides: Iterable[str]) -> None:
        """Drop all lines of some sides."""
        gone = set(sides)
        self.lines = [line for line in self.lines if line["side"] not in gone]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def sides(self) -> list[str]:
        """Names in order of appearance."""
        return list(dict.fromkeys(line["side"] for line in self.lines))


def verdicts(net: Net, cells: Cells, question: Question, limit: float) -> dict[int, str]:
    """What is known before any attack: nobody can break a point that is proved robust, so it is left out."""
    known = {int(point): verdict for point, verdict in cells.merged("verdicts", "verdict").items()}
    todo = [row for row in net.session.indices if row not in known]
    if todo:
        points, labels = net.rows(todo)
        begin = time.process_time()
        if question.complete:
            how: dict[str, Any] = {"complete": True, "time_limit": limit}
            answer = certify(net.network, points, labels, norm=question.norm, eps=question.eps, box=BOX, **how).verdicts
        else:  # so large a radius that bounds prove next to nothing
            right = set(net.correct())
            answer = ["unknown" if row in right else "misclassified" for row in todo]
        found = dict(zip(map(str, todo), answer, strict=True))
        cells.add({"side": "verdicts", "verdict": found, "seconds": time.process_time() - begin})
        known |= {int(point): verdict for point, verdict in found.items()}
    return {row: known[row] for row in net.session.indices}


def ours(pair: Pair) -> Side | None:
    """Our side of a pair, or None where the attack is not there."""
    from robustcli.attacks.ensembles import ENSEMBLES, choose
    from robustcli.attacks.reach import in_reach
    from robustcli.attacks.registry import ROWS as ATTACKS

    if pair.ours in ENSEMBLES:

        def together(net: Net, task: Task, index: list[int]) -> Answer:
            found = task.nothing()
            for number, chosen in enumerate(choose([pair.ours], task.ball.p)):
                standing = (~found.success & task.rivals.any(1)).nonzero().squeeze(1)
                if number == 1 and len(standing):  # as `robust attack` does
                    rest = task.take(standing)
                    task.rivals[standing] = in_reach(net.exact, rest.ball, rest.labels)
                    standing = standing[task.rivals[standing].any(1)]
                if len(standing):  # attacks that start from what is known start from the lowest point found
                    row, before = ATTACKS[chosen.name], found.take(standing)
                    asked = task.take(standing)
                    asked = replace(asked, near=before.points) if row.goal == "radius" else asked
                    now = row.attack(asked, chosen.resolved())
                    found = found.with_rows(standing, before.or_else(now, lowest_margin))
            return found, _spent(found)

        return together
    if pair.ours not in ATTACKS:
        return None
    row = ATTACKS[pair.ours]

    def alone(net: Net, task: Task, index: list[int]) -> Answer:
        found = row.attack(task, row.settings(**pair.options))
        return found, _spent(found)

    return alone


def _spent(found: Found) -> dict[str, float]:
    """Forward and backward passes a point."""
    return {"passes": round(float(found.passes.double().mean()), 1)}


def theirs(name: str, steps: int) -> Side:
    """A public attack, its candidates judged by us."""

    def side(net: Net, task: Task, index: list[int]) -> Answer:
        counted, eps = Counted(net.model), float(task.ball.eps[0])
        points = task.ball.center.float()
        radius = eps if math.isfinite(eps) else None
        found = candidates(PEERS[name], counted, points, task.labels, task.ball.p, radius, steps)
        found = found.double().clamp(*BOX)
        judged = task.judge(found)
        if radius is None:
            further = task.ball.center + (found - task.ball.center) * (1 + OVERSHOOT)
            judged = judged.or_else(task.judge(further.clamp(*BOX)), shortest)
        rows = len(index)
        return judged, {"passes": round((counted.forwards + counted.backwards) / rows, 1)}

    return side


@dataclass(frozen=True)
class Work:
    """One side on the points it has not been asked about."""

    name: str
    side: Side
    norms: tuple[float, ...]

    def run(self, net: Net, cells: Cells, points: list[int], norm: str, eps: float) -> Iterator[str]:
        """Block by block; yields a line for people after each."""
        done = {int(point) for line in cells.of(self.name) for point in line["points"]}
        todo = [point for point in points if point not in done]
        for first in range(0, len(todo), ROWS):
            index = todo[first : first + ROWS]
            begin = time.process_time()
            found, cost = self.side(net, net.task(index, norm, eps), index)
            seconds = time.process_time() - begin
            fell = [row for row, success in zip(index, found.success.tolist(), strict=True) if success]
            line: dict[str, Any] = {"side": self.name, "points": index, "fell": fell, "seconds": seconds, **cost}
            if math.isinf(eps):
                distances = found.distances.tolist()
                line["distance"] = {
                    str(row): distance
                    for row, distance in zip(index, distances, strict=True)
                    if math.isfinite(distance)
                }
            cells.add(line)
            yield f"{self.name}: {len(fell)} of {len(index)} in {seconds:.1f} s, {cost['passes']:.0f} passes a point"
