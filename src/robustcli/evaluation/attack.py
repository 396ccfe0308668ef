"""`robust attack`: known witnesses first, then attacks in turn, each on the points that still stand.

A failed search proves nothing, so the point stays unknown. Points that stand after the first of several attacks are
asked which classes they can reach at all (`attacks.reach`); the next attacks aim at no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from robustcli.attacks.contract import Found, Task
from robustcli.attacks.ensembles import Chosen, choose
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.reach import in_reach
from robustcli.attacks.registry import fitted, row
from robustcli.attacks.search import padded
from robustcli.attacks.training import evaluating
from robustcli.attacks.verify import confirm
from robustcli.evaluation.batch import BOUNDED, Batch
from robustcli.evaluation.budget import Budget, Clock
from robustcli.evaluation.known import Pool, nearest_of, stacked
from robustcli.networks.network import Network
from robustcli.recipes.fields import Strict
from robustcli.results.attacks import REPLAY
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Place

CHUNK = {"cpu": 64, "cuda": 2048}
"""Points attacked at once, by device type: one full block of rows in the first round; on a GPU many."""

PORTIONS = 8
"""Portions of a batch: the few points that stand after the first attacks fill the blocks of the next ones together."""

EVERY_POINT = 1 << 20
"""Points of a batch under a time limit: each attack goes through all of them before the next one starts."""


class Settings(Strict):
    """How to attack."""

    attacks: list[Chosen] = Field(min_length=1, description="in turn, with all their settings")
    each: bool = Field(False, description="ask every attack about every point")
    budget: str | None = Field(None, description="passes per point (2000) or time for all points (60s, 5m)")
    seed: int = Field(0, ge=0, description="of the random starts; each point's own derives from it and its index")

    @field_validator("budget")
    @classmethod
    def _readable(cls, budget: str | None) -> str | None:
        Budget.parse(budget)
        return budget

    @classmethod
    def only(cls, name: str, *, seed: int = 0, **options: Any) -> Settings:
        """One attack, with what is set other than by default."""
        return cls(attacks=[Chosen.of(name, **options)], seed=seed)

    @classmethod
    def named(
        cls,
        names: Sequence[str],
        p: float,
        *,
        each: bool = False,
        budget: str | None = None,
        seed: int = 0,
        **options: int | None,
    ) -> Settings:
        """Attacks and ensembles by name, for one kind of ball; see `ensembles.choose`."""
        return cls(attacks=choose(names, p, options), each=each, budget=budget, seed=seed)


@dataclass
class Log:
    """What happened to one point.

    tried: per attack its passes, seconds, smallest margin, and whether it broke the point; with what else it tells.
    by: the first attack that broke it.
    margin: the smallest margin found.
    broken: the misclassified point of the ball, and the name of the attack that found it; stored with the record.
    cut: some attack could not spend all it would have spent.
    reach: classes not proved out of reach, [K] bool; None where that was not asked; `bounding` is its seconds.
    near: the nearest misclassified point known, outside the ball; low: the point of the ball with the smallest margin
        that an attack has found. Attacks that are each asked about every point stand alone: they start from neither.
    """

    tried: dict[str, dict[str, Any]] = field(default_factory=dict)
    by: str | None = None
    margin: float = float("inf")
    broken: tuple[Tensor, str] | None = None
    cut: bool = False
    reach: Tensor | None = None
    bounding: float = 0.0
    near: Tensor | None = None
    low: Tensor | None = None

    @property
    def passes(self) -> int:
        return sum(tried["passes"] for tried in self.tried.values())

    @property
    def seconds(self) -> float:
        return self.bounding + sum(tried["seconds"] for tried in self.tried.values())

    @property
    def safe(self) -> bool:
        """No class is in reach: nothing is left to search for."""
        return self.reach is not None and not bool(self.reach.any())


class Attacker:
    """Attacks points of one network.

    Args:
        network: as stored; searches run in its precision, every verdict rests on its float64 copy.
        settings: which attacks, and how hard they try.
        witnesses: where they are kept and looked up, or None for neither.
    """

    def __init__(self, network: Network, settings: Settings, witnesses: Place | None = None) -> None:
        self.network, self.exact = network, network.double()
        self.settings, self.witnesses = settings, witnesses
        self.model = network.weights_hash()
        self.known = Pool(witnesses, self.model, network.input_shape)
        self.budget = Budget.parse(settings.budget)
        self.clock = Clock(self.budget)
        self.chunk = CHUNK.get(network.device.type, CHUNK["cpu"])
        # Where each attack is asked about every point there is nobody to wait for.
        portions = 1 if settings.each else PORTIONS
        self.batch_size = portions * self.chunk if self.budget.seconds is None else EVERY_POINT

    def __call__(self, batch: Batch) -> Iterator[PointRecord]:
        """One record per point, as soon as it is decided: `vulnerable` with a stored witness, or `unknown` with the
        smallest margin found."""
        logs = [Log() for _ in range(len(batch))]
        for place in range(len(batch)):
            self._replay(batch, place, logs[place])
        everyone = list(range(len(logs)))
        waiting = dict.fromkeys(everyone)
        yield from self._decided(batch, everyone, logs, waiting)
        for number, chosen in enumerate(self.settings.attacks):
            asked = everyone if self.settings.each else list(waiting)
            for some in _portions(batch, asked, self.chunk):
                batch.pause()
                self._attack(batch, some, logs, chosen, self._name(number))
                yield from self._decided(batch, some.tolist(), logs, waiting)
            if number == 0 and len(self.settings.attacks) > 1 and not self.settings.each:
                batch.pause()
                self._bound(batch, list(waiting), logs)
                yield from self._decided(batch, list(waiting), logs, waiting)
        for place in waiting:
            yield self._record(batch, place, logs[place])

    def _decided(
        self, batch: Batch, places: Sequence[int], logs: list[Log], waiting: dict[int, None]
    ) -> Iterator[PointRecord]:
        """The records of those of the points that no further attack is asked about; they wait no longer."""
        for place in places:
            if logs[place].safe or (logs[place].by is not None and not self.settings.each):
                del waiting[place]
                yield self._record(batch, place, logs[place])

    def _bound(self, batch: Batch, places: list[int], logs: list[Log]) -> None:
        """Which classes some of the points can reach, as far as a budget of time goes."""
        for rows in _portions(batch, places, BOUNDED.get(self.network.device.type, BOUNDED["cpu"])):
            if self.clock.over():
                return
            begin = time.monotonic()
            with evaluating(self.exact):
                found = in_reach(self.exact, batch.ball.take(rows).to(torch.float64), batch.labels[rows])
            for number, place in enumerate(rows.tolist()):
                logs[place].reach, logs[place].bounding = found[number], (time.monotonic() - begin) / len(rows)

    def _name(self, number: int) -> str:
        """How an attack appears in the records: its name, with a number where it is asked several times."""
        names = [chosen.name for chosen in self.settings.attacks]
        before = names[:number].count(names[number])
        return names[number] if not before else f"{names[number]}-{before + 1}"

    def _attack(self, batch: Batch, rows: Tensor, logs: list[Log], chosen: Chosen, name: str) -> None:
        """One attack on some of the points, as far as the budget goes."""
        if self.clock.over():
            for place in rows.tolist():
                logs[place].cut = True
            return
        kind, asked, classes = row(chosen.name), chosen.resolved(), self.network.classes
        whole = kind.passes(asked, classes, batch.ball.p)
        spent = [0 if self.settings.each else logs[place].passes for place in rows.tolist()]
        left = [whole if self.budget.passes is None else min(whole, self.budget.passes - used) for used in spent]
        for passes in sorted(set(left)):
            some = rows[torch.tensor([other == passes for other in left], device=rows.device)]
            settings = fitted(kind, asked, passes, classes, batch.ball.p)
            for place in some.tolist():
                logs[place].cut |= settings != asked
            if settings is not None:
                begin = time.monotonic()
                with evaluating(self.network):
                    found = kind.attack(self._task(batch, some, logs, kind.goal), settings)
                seconds = (time.monotonic() - begin) / len(some)
                self._keep(batch, some, logs, found, name, chosen.name, seconds)

    def _task(self, batch: Batch, rows: Tensor, logs: list[Log], goal: str) -> Task:
        """The points with where attacks of that goal may start, if they start from what is known."""
        seeds = point_seeds(self.settings.seed, batch.indices[rows])
        labels, near = batch.labels[rows], batch.points[rows].clone()
        for number, place in enumerate(rows.tolist()):
            log = logs[place]
            known = log.low if goal == "radius" and log.low is not None else log.near
            if known is not None and not self.settings.each:
                near[number] = known
        task = Task.of(self.network, batch.ball.take(rows), labels, seeds, near=near, exact=self.exact)
        for number, place in enumerate(rows.tolist()):
            reach = logs[place].reach
            if reach is not None:
                task.rivals[number] = reach
        return task

    def _keep(
        self, batch: Batch, rows: Tensor, logs: list[Log], found: Found, name: str, found_by: str, seconds: float
    ) -> None:
        """Write down, under a name in the records, what an attack found. What it claims is judged once more."""
        claimed = found.success.nonzero().squeeze(1)
        sure: dict[int, int] = {}
        if len(claimed):
            filled = padded(claimed, self.chunk)  # a fixed number of rows: the last bits of a margin depend on it
            asked = batch.ball.take(rows[filled]), batch.labels[rows[filled]]
            judged = confirm(self.exact, *asked, found.points[filled])
            sure = {place: number for number, place in enumerate(claimed.tolist()) if bool(judged.success[number])}
        margins, passes = found.margins.tolist(), found.passes.tolist()
        for number, place in enumerate(rows.tolist()):
            log, margin = logs[place], margins[number]
            if number in sure:
                margin = float(judged.margins[sure[number]])
                if log.by is None:
                    log.by, log.margin, log.broken = name, margin, (judged.points[sure[number]], found_by)
            elif log.by is None and margin < log.margin:
                log.margin, log.low = margin, found.points[number]
            log.tried[name] = {
                "broke": number in sure,
                "margin": margin,
                "passes": passes[number],
                "seconds": seconds,
            }

    def _replay(self, batch: Batch, place: int, log: Log) -> None:
        """The strongest known witness of a point, moved into this ball if it lies outside; where none holds there, the
        nearest one is where searches for the nearest may start."""
        begin, stored = time.monotonic(), self.known.of(batch, place)
        if not stored:
            return
        many = torch.full((len(stored),), place, device=batch.points.device)
        candidates = stacked(stored, batch.points)
        ball, labels = batch.ball.take(many), batch.labels[many]
        judged = confirm(self.exact, ball, labels, candidates)
        best = int(torch.where(judged.success, judged.margins, torch.inf).argmin())
        broke = bool(judged.success[best])
        if broke:
            log.by, log.margin = REPLAY, float(judged.margins[best])
            log.broken = judged.points[best], stored[best].found_by
        else:
            nearest = nearest_of(self.exact, batch, place, candidates)
            if nearest is not None:
                log.near = candidates[nearest]
        log.tried[REPLAY] = {
            "broke": broke,
            "margin": float(judged.margins[best]),
            "passes": 0,
            "seconds": time.monotonic() - begin,
            "found_by": stored[best].found_by,
        }

    def _record(self, batch: Batch, place: int, log: Log) -> PointRecord:
        """The record of a point. Its witness goes to disk with it: one left by an interruption would be a known one to
        the rerun, and no attack would have found it."""
        fallen, name = log.by is not None, None
        if log.broken is not None:
            point, found_by = log.broken
            name = batch.keep(self.witnesses, place, point, log.margin, self.model, found_by=found_by)
        reason = f"attack budget of {self.budget} ran out" if log.cut else "attack failed"
        if log.safe:
            reason = "no class in reach"
        told: dict[str, Any] = {} if fallen else {"smallest_margin": log.margin}
        if log.reach is not None:
            told["in_reach"] = log.reach.nonzero().squeeze(1).tolist()
        return PointRecord(
            index=int(batch.indices[place]),
            label=int(batch.labels[place]),
            predicted=int(batch.predicted[place]),
            verdict="vulnerable" if fallen else "unknown",
            method=log.by or next(reversed(log.tried), self.settings.attacks[0].name),
            margin_upper=log.margin if fallen else None,
            witness=name,
            reason=None if fallen else reason,
            seconds=log.seconds,
            details={"attacks": log.tried} | told,
        )


def _portions(batch: Batch, places: list[int], size: int) -> Sequence[Tensor]:
    """Places of a batch, so many at once."""
    return torch.tensor(places, dtype=torch.int64, device=batch.points.device).split(size) if places else ()
