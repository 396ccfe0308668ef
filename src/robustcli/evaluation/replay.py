"""`robust attack --replay`: every stored witness of a network judged again in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustcli.attacks.verify import misclassified
from robustcli.balls import vector_norm
from robustcli.data.datasets import Split
from robustcli.errors import ContradictionError
from robustcli.evaluation.known import check_shape
from robustcli.networks.network import Network, margins
from robustcli.norms import any_exponent
from robustcli.results.witnesses import Witness, load

TOLERANCE = 1e-9
"""How far a distance may be from the one stored, which came from another order of summation."""

MARGIN = 1e-6
"""The same for a margin."""

BLOCK = 256


class Replay:
    """Judges the witnesses of a folder.

    Args:
        exact: the network in float64.
        model: its hash, as stored in the witnesses.
        folder: with the witnesses.
        data: the test split. Witnesses of other points (of another data set, say) are counted apart.
    Raises:
        DataError: when a file cannot be read, or holds no input of this network.
    """

    def __init__(self, exact: Network, model: str, folder: Path, data: Split) -> None:
        stored = {path.name: load(path) for path in sorted(folder.glob("*.npz"))}
        of_network = {name: item for name, item in stored.items() if item.model == model}
        for item in of_network.values():
            check_shape(item, exact.input_shape)
        named = {name: item for name, item in of_network.items() if _of_point(item, data)}
        own = list(named.values())
        self.folder, self.others, self.strangers = folder, len(stored) - len(of_network), len(of_network) - len(own)
        parts = (own[start : start + BLOCK] for start in range(0, len(own), BLOCK))
        holds = [good for part in parts for good in _holding(exact, part)]
        self.failed = [
            name for (name, item), good in zip(named.items(), holds, strict=True) if not good or item.name != name
        ]
        self.norms = Counter(item.norm for item in own)
        self.attacks = Counter(item.found_by or "unknown" for item in own)
        self.points, self.witnesses = len({item.index for item in own}), len(own)

    @property
    def problem(self) -> ContradictionError | None:
        """That some witness does not hold, or is not the one its file is named after."""
        if not self.failed:
            return None
        return ContradictionError(
            f"{len(self.failed)} witnesses do not hold, the first is {self.folder / self.failed[0]}",
            "the file was altered, or the program that wrote it was wrong: please report it",
        )

    def document(self) -> dict[str, Any]:
        """All counts."""
        return {
            "witnesses": self.witnesses,
            "confirmed": self.witnesses - len(self.failed),
            "failed": self.failed,
            "points": self.points,
            "of_other_points": self.strangers,
            "of_other_networks": self.others,
            "norms": dict(sorted(self.norms.items())),
            "found_by": dict(self.attacks.most_common()),
        }

    def __str__(self) -> str:
        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"

        return (
            f"{self.witnesses} witnesses of {self.points} points: {self.witnesses - len(self.failed)} confirmed, "
            f"{len(self.failed)} failed; {self.strangers} of other points, {self.others} of other networks\n"
            f"norms: {listed(self.norms)}\nfound by: {listed(self.attacks)}"
        )


def _of_point(item: Witness, data: Split) -> bool:
    """Whether it is of a row of the data, with its label."""
    if not 0 <= item.index < len(data) or int(data.labels_tensor(item.index)) != item.label:
        return False
    return bool(np.array_equal(data.points(item.index)[0].numpy(), item.point))


@torch.no_grad()
def _holding(exact: Network, items: Sequence[Witness]) -> list[bool]:
    """Whether each is misclassified beyond rounding, by the margin and as far from its point as it says."""
    x = torch.from_numpy(np.stack([item.witness for item in items])).to(exact.device)
    labels = torch.tensor([item.label for item in items], device=exact.device)
    wrong, found = misclassified(exact, x, labels).tolist(), margins(exact(x), labels).tolist()
    moves = x.flatten(1) - torch.from_numpy(np.stack([item.point for item in items])).to(x).flatten(1)
    far = [float(vector_norm(move, any_exponent(item.norm))) for move, item in zip(moves, items, strict=True)]
    return [
        holds
        and abs(margin - item.margin) <= MARGIN * max(1.0, abs(margin))
        and abs(distance - item.distance) <= TOLERANCE * max(1.0, item.distance)
        for item, holds, margin, distance in zip(items, wrong, found, far, strict=True)
    ]
