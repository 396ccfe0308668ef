"""What the questions are answered with: one record a point, and the figures over all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcli.results.attacks import attack_figures
from robustcli.results.distances import distances
from robustcli.results.schema import AttackFigures, PointRecord, StageFigures
from robustcli.results.stages import stage_figures

VERDICTS = ("robust", "vulnerable", "misclassified", "unknown")


@dataclass(frozen=True)
class Answer:
    """Answers for N points, in their order.

    Args:
        question: norm, radius and box in words.
        records: one `PointRecord` a point, as the commands write it: what decided, seconds, why unknown, details.
        witnesses: misclassified inputs by the row of their point, [*input_shape] float64 on the model's device, in the
            units of the points.
    """

    question: str
    records: tuple[PointRecord, ...]
    witnesses: dict[int, Tensor]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def seconds(self) -> float:
        """Of all points together."""
        return sum(record.seconds for record in self.records)

    def _numbers(self, field: str, missing: float) -> Tensor:
        values = [getattr(record, field) for record in self.records]
        return torch.tensor([missing if value is None else value for value in values], dtype=torch.float64)


@dataclass(frozen=True)
class Verdicts(Answer):
    """Of `certify` and `attack`."""

    @property
    def verdicts(self) -> list[str]:
        """`robust`, `vulnerable`, `misclassified` or `unknown`, one a point."""
        return [str(record.verdict) for record in self.records]

    @property
    def counts(self) -> dict[str, int]:
        """Points by verdict, all four of them."""
        return {name: self.verdicts.count(name) for name in VERDICTS}

    @property
    def lower(self) -> Tensor:
        """Proved lower bound on the smallest margin f_y - max f_t over each ball, in logits, [N] float64 on the CPU;
        -inf where nothing is proved."""
        return self._numbers("margin_lower", -math.inf)

    @property
    def upper(self) -> Tensor:
        """Margin at the witness, or at the point itself where that is misclassified, < 0; [N], inf where there is none.

        The smallest margin over the ball is at most this."""
        return self._numbers("margin_upper", math.inf)

    @property
    def reasons(self) -> dict[int, str]:
        """Why a point is unknown, by row."""
        return {row: str(record.reason) for row, record in enumerate(self.records) if record.verdict == "unknown"}

    @property
    def stages(self) -> dict[str, StageFigures]:
        """What each stage of `certify` was asked, what it decided and how long it took."""
        return stage_figures(self.records) or {}

    @property
    def attacks(self) -> dict[str, AttackFigures]:
        """What each attack of `attack` was asked, what it broke and what it cost."""
        return attack_figures(self.records) or {}

    def __str__(self) -> str:
        counts = self.counts
        return _table(
            self.question,
            ["points", *counts, "seconds"],
            [str(len(self)), *map(str, counts.values()), f"{self.seconds:.1f}"],
        )


@dataclass(frozen=True)
class Distances(Answer):
    """Of `distance`; distances in the units of the points, in pixels for `inputs=Normalised(mean, std)`."""

    @property
    def lower(self) -> Tensor:
        """No misclassified input is nearer, [N] float64 on the CPU; inf where there is none at all, 0 for points that
        are misclassified themselves."""
        return self._numbers("distance_lower", math.inf)

    @property
    def upper(self) -> Tensor:
        """Distance of the witness, [N]; inf where none was found, 0 for points that are misclassified themselves."""
        return self._numbers("distance_upper", math.inf)

    @property
    def exact(self) -> Tensor:
        """Whether both ends meet, up to 1e-6 relatively, [N] bool."""
        return torch.tensor([bool(record.exact) for record in self.records])

    def __str__(self) -> str:
        """Means over the correctly classified points with two finite ends."""
        found = distances(self.records)
        means = [f"{found[key]:.4g}" if key in found else "-" for key in ("mean_lower", "mean_upper")]
        share = f"{100 * found['share_exact']:.1f} %" if "share_exact" in found else "-"
        wrong = len(self) - int(found["points"])
        return _table(
            self.question,
            ["points", "misclassified", "mean lower", "mean upper", "exact", "seconds"],
            [str(len(self)), str(wrong), *means, share, f"{self.seconds:.1f}"],
        )


def _table(title: str, heads: list[str], cells: list[str]) -> str:
    widths = [max(len(head), len(cell)) for head, cell in zip(heads, cells, strict=True)]
    rows = ("  ".join(text.rjust(size) for text, size in zip(row, widths, strict=True)) for row in (heads, cells))
    return "\n".join([title, *rows])
