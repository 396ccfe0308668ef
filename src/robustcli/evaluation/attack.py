"""`robust attack`: known witnesses first, then PGD. A failed search proves nothing, so the point stays unknown."""

from __future__ import annotations

import time

import torch
from pydantic import Field

from robustcli.attacks.noise import point_seeds
from robustcli.attacks.pgd import AttackResult, pgd
from robustcli.attacks.settings import PgdSettings
from robustcli.attacks.verify import confirm
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network
from robustcli.recipes.fields import Strict
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Place, Witness, all_witnesses


class Settings(Strict):
    """How to attack."""

    pgd: PgdSettings = Field(default_factory=PgdSettings, description="the search")
    seed: int = Field(0, ge=0, description="of the random starts; each point's own derives from it and its index")


class Attacker:
    """Attacks points of one network.

    Args:
        network: as stored; the search runs in its precision, every verdict rests on its float64 copy.
        settings: of the search.
        witnesses: where they are kept and looked up, or None for neither.
    """

    def __init__(self, network: Network, settings: Settings, witnesses: Place | None = None) -> None:
        self.network, self.exact = network, network.double()
        self.settings, self.witnesses = settings, witnesses
        self.model = network.weights_hash()
        self.known: dict[int, list[Witness]] = {}
        for item in all_witnesses(witnesses) if witnesses is not None else ():
            if item.model == self.model:
                self.known.setdefault(item.index, []).append(item)
        # One full block of rows in the first round; on a GPU many.
        self.batch_size = 64 if network.device.type == "cpu" else 2048

    def __call__(self, batch: Batch) -> list[PointRecord]:
        """One record per point: `vulnerable` with a stored witness, or `unknown` with the smallest margin found."""
        begin = time.monotonic()
        known = [self._replayed(batch, row) for row in range(len(batch))]
        rows = torch.tensor([row for row, name in enumerate(known) if name is None], device=batch.points.device).long()
        seeds = point_seeds(self.settings.seed, batch.indices[rows])
        found = pgd(self.network, batch.ball.take(rows), batch.labels[rows], self.settings.pgd, seeds)
        seconds = (time.monotonic() - begin) / len(batch)
        place = {row: position for position, row in enumerate(rows.tolist())}
        return [
            self._searched(batch, row, found, place[row], seconds)
            if replayed is None
            else self._record(batch, row, "replay", replayed[0], replayed[1], seconds)
            for row, replayed in enumerate(known)
        ]

    def _replayed(self, batch: Batch, row: int) -> tuple[float, str | None] | None:
        """Margin and name of the strongest known witness of this point, moved into this ball if it lies outside."""
        stored = self.known.get(int(batch.indices[row]), [])
        if not stored:
            return None
        many = torch.full((len(stored),), row, device=batch.points.device)
        candidates = torch.stack([torch.from_numpy(item.witness) for item in stored]).to(batch.points.device)
        judged = confirm(self.exact, batch.ball.take(many), batch.labels[many], candidates)
        if not bool(judged.success.any()):
            return None
        best = int(torch.where(judged.success, judged.margins, torch.inf).argmin())
        margin = float(judged.margins[best])
        return margin, batch.keep(self.witnesses, row, judged.points[best], margin, self.model)

    def _searched(self, batch: Batch, row: int, found: AttackResult, position: int, seconds: float) -> PointRecord:
        margin = float(found.margins[position])
        if bool(found.success[position]):
            name = batch.keep(self.witnesses, row, found.points[position], margin, self.model)
            return self._record(batch, row, "pgd", margin, name, seconds)
        return PointRecord(
            index=int(batch.indices[row]),
            label=int(batch.labels[row]),
            predicted=int(batch.predicted[row]),
            verdict="unknown",
            method="pgd",
            reason="attack failed",
            seconds=seconds,
            details={"smallest_margin": margin},
        )

    def _record(
        self, batch: Batch, row: int, method: str, margin: float, witness: str | None, seconds: float
    ) -> PointRecord:
        return PointRecord(
            index=int(batch.indices[row]),
            label=int(batch.labels[row]),
            predicted=int(batch.predicted[row]),
            verdict="vulnerable",
            method=method,
            margin_upper=margin,
            witness=witness,
            seconds=seconds,
        )
