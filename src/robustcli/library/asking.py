"""A question about own points: checked, brought into the coordinates in which its ball is a plain one, and answered by
an evaluator of the commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustcli.attacks.verify import misclassified
from robustcli.balls import Ball, vector_norm
from robustcli.boxes import Ends, covering_radius, named
from robustcli.errors import UsageError
from robustcli.evaluation.batch import Evaluator
from robustcli.evaluation.clean import judged
from robustcli.library.conversion import convert
from robustcli.library.frames import SPARE, Frame, Normalised, per_channel, widened
from robustcli.networks.layers import Shape
from robustcli.networks.network import Network, margins
from robustcli.norms import exponent, positive_radius
from robustcli.results.distances import meet
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import Witness

Progress = Callable[[int, int], None]
"""Called with (answered, all points) after every record."""
Given = tuple[float | Sequence[float] | Tensor, float | Sequence[float] | Tensor] | None
"""The box as users give it: (lower, upper), each one number or one per channel."""


@dataclass(frozen=True)
class Asked:
    """A question in z.

    Args:
        words: the question for people.
        network: of z.
        model: of the points x, float64.
        points: x, [N, *shape] float64.
        labels: [N].
        ball: around z0; contains every z of the ball that is asked about.
        off: norm of what each z0 may be off, [N].
        limit: the radius in z, without what rounding adds; 0 for a question about distances.
        frame: None where z = x.
    """

    words: str
    network: Network
    model: Network
    points: Tensor
    labels: Tensor
    ball: Ball
    off: Tensor
    limit: float
    frame: Frame | None

    def answered(
        self, evaluator: Evaluator, kept: dict[str, Witness], progress: Progress | None
    ) -> tuple[tuple[PointRecord, ...], dict[int, Tensor]]:
        """Records in the order of the points, and the witnesses as x.

        Args:
            evaluator: of `network`, which keeps its witnesses in `kept`.
        """
        exact, rows = self.network.double(), torch.arange(len(self.points), device=self.points.device)
        records: dict[int, PointRecord] = {}
        witnesses: dict[int, Tensor] = {}
        for chunk in rows.split(evaluator.batch_size):
            asked = judged(exact, evaluator, chunk, self.labels[chunk], self.ball.take(chunk), verdicts=self.limit > 0)
            for record in asked:
                witness = None if record.witness is None else torch.from_numpy(kept[record.witness].witness)
                if witness is not None:
                    witnesses[record.index] = witness.to(self.points.device).view(self.points.shape[1:])
                records[record.index] = record if self.frame is None else self._left(record, witnesses, self.frame)
                if progress is not None:
                    progress(len(records), len(rows))
        return tuple(records[row] for row in rows.tolist()), witnesses

    def _left(self, record: PointRecord, witnesses: dict[int, Tensor], frame: Frame) -> PointRecord:
        """The record of a point, with its witness judged again as x; the witness is taken back where it fails."""
        row = record.index
        if record.distance_lower is not None:
            record = record.model_copy(
                update={"distance_lower": max(0.0, record.distance_lower - float(self.off[row]))}
            )
        if row not in witnesses:
            return record
        x, label = frame.leave(witnesses[row].unsqueeze(0)), self.labels[row : row + 1]
        seen = x.view(1, *self.model.input_shape)
        margin = float(margins(self.model(seen), label))
        wrong = bool(misclassified(self.model, seen, label))
        distance = float(vector_norm(((x - self.points[row]) * frame.std).flatten(1), self.ball.p))
        witnesses[row] = x[0]
        update: dict[str, Any] = {"margin_upper": margin}
        if self.limit == 0:
            update |= {"distance_upper": distance, "exact": meet(record.distance_lower or 0.0, distance)}
        if wrong and (self.limit == 0 or distance <= self.limit):
            return record.model_copy(update=update)
        del witnesses[row]
        lost = {"witness": None, "margin_upper": None, "reason": "the misclassified input is lost in rounding"}
        if self.limit == 0:
            return record.model_copy(update={**lost, "distance_upper": None, "exact": False})
        return record.model_copy(update={**lost, "verdict": "unknown"})


def ask(
    model: nn.Module, points: Any, labels: Any, norm: str, eps: Any | None, box: Given, inputs: Normalised | None
) -> Asked:
    """Check a question and bring it into z; arguments as in `questions.certify`, eps None for distances.

    Raises:
        UsageError: for whatever cannot be asked.
    """
    p = exponent(norm)
    shape = _shape(points)
    network = convert(model, shape)
    x = _points(points, network.device)
    y = _labels(labels, len(x), network)
    ends = None if box is None else _ends(box, shape, network.device)
    units, limit = (None, 0.0) if eps is None else _radius(eps, shape, network.device)
    words = ", ".join(
        [
            norm,
            *([] if eps is None else [_named_radius(units, limit)]),
            "no box" if ends is None else f"box {named(ends)}",
        ]
    )
    frame, z, off = None, x, torch.zeros(len(x), dtype=x.dtype, device=x.device)
    asked = network
    if inputs is not None or units is not None:
        one = torch.ones(shape[0], *[1] * (len(shape) - 1), dtype=x.dtype, device=x.device)
        unit = one if units is None else units
        frame = Frame.of(Normalised(0.0, 1.0) if inputs is None else inputs, unit, shape)
        z, off = frame.enter(x, p)
        ends, asked = frame.box(ends, unit), frame.before(network)
        limit = limit if units is None else 1.0
    if ends is not None:
        ends = widened(ends, z)
        if limit > covering_radius(p, z[0].numel(), ends):
            raise UsageError(
                f"eps = {eps} is larger than the box: every ball in {norm} covers it",
                "eps is in the units of the box: write 8/255 rather than 8",
            )
    eps_z = torch.full_like(off, limit) if frame is None else (limit + off) * (1 + SPARE)
    centres = z.reshape(-1, *network.input_shape)
    return Asked(words, asked, network.double(), x, y, Ball(centres, eps_z, p, ends), off, limit, frame)


def _shape(points: Any) -> Shape:
    shape = tuple(int(side) for side in getattr(points, "shape", ()))
    if len(shape) < 2:
        raise UsageError(
            f"points of shape {list(shape)}; they are [N, *input_shape]", "a single point x is given as x.unsqueeze(0)"
        )
    if 0 in shape:
        raise UsageError(f"points of shape {list(shape)} are none")
    return shape[1:]


def _points(points: Any, device: torch.device) -> Tensor:
    """[N, *shape] float64."""
    given = torch.as_tensor(points).detach()
    if not given.is_floating_point():
        raise UsageError(f"points are {given.dtype}", "scale them as the model was trained: images.float() / 255")
    bad = (~given.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        raise UsageError(f"point {int(bad.nonzero()[0])} holds NaN or infinite numbers")
    return given.to(device, torch.float64)


def _labels(labels: Any, count: int, network: Network) -> Tensor:
    """[N] int64."""
    given = torch.as_tensor(labels)
    if tuple(given.shape) != (count,) or given.is_floating_point() or given.dtype == torch.bool:
        raise UsageError(f"labels are {given.dtype} of shape {list(given.shape)}; {count} class numbers are wanted")
    outside = (given < 0) | (given >= network.classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise UsageError(
            f"label {int(given[row])} of point {row} is no class of a network with {network.classes} logits"
        )
    return given.to(network.device, torch.int64)


def _radius(eps: Any, shape: Shape, device: torch.device) -> tuple[Tensor | None, float]:
    """Radii [C, 1, ...] where they are given per channel, else None and the one radius."""
    if isinstance(eps, str | int | float):
        return None, positive_radius(eps)
    given = per_channel(eps, shape, "eps").to(device)
    limit = float(given.min())
    if not limit > 0:
        raise UsageError(f"eps = {eps} must be positive")
    return None if torch.as_tensor(eps).numel() == 1 else given, limit


def _named_radius(units: Tensor | None, limit: float) -> str:
    if units is None:
        return f"eps {limit:g}"
    return f"eps {limit:g} to {float(units.max()):g} by channel"


def _ends(box: Given, shape: Shape, device: torch.device) -> Ends:
    """Two numbers, or [d] each."""
    try:
        low, high = cast(tuple[Any, Any], box)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"box = {box!r} is not (lower, upper)", "write box=(0, 1), or one number per channel"
        ) from error
    both = [per_channel(end, shape, "box").to(device) for end in (low, high)]
    if not bool((both[0] < both[1]).all()):
        raise UsageError(f"box = {box!r} is empty")
    if all(torch.as_tensor(end).dim() == 0 for end in (low, high)):
        return float(low), float(high)
    flat = [end.expand(shape).flatten() for end in both]
    return flat[0], flat[1]
