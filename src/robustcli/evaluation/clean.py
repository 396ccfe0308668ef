"""The clean check, once for all questions: by the float64 margin a point is misclassified (< 0), a tie (= 0, never a
verdict), or handed to the evaluator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.evaluation.batch import Batch, Evaluator
from robustcli.networks.network import Network, margins
from robustcli.results.schema import PointRecord


def judged(
    exact: Network,
    evaluator: Evaluator,
    indices: Tensor,
    labels: Tensor,
    ball: Ball,
    *,
    verdicts: bool,
    pause: Callable[[], None] = lambda: None,
) -> Iterator[PointRecord]:
    """One record a point: the evaluator's where the clean point is classified correctly, as soon as it has it.

    Args:
        exact: float64.
        evaluator: asked about the correctly classified points.
        indices: of the points, [B].
        labels: [B].
        ball: balls around all points, float64.
        verdicts: False for questions about distances, which have no verdict.
        pause: see `Batch`.
    """
    begin = time.monotonic()
    with torch.no_grad():
        logits = exact(ball.center)
    clean, predicted = margins(logits, labels), logits.argmax(1)
    seconds = (time.monotonic() - begin) / max(1, len(indices))
    right = (clean > 0).nonzero().flatten()
    if len(right):
        yield from evaluator(
            Batch(
                indices=indices[right],
                points=ball.center[right],
                labels=labels[right],
                predicted=predicted[right],
                clean_margins=clean[right],
                ball=ball.take(right),
                pause=pause,
            )
        )
    for row in (~(clean > 0)).nonzero().flatten().tolist():
        wrong = bool(clean[row] < 0)
        reason = "the clean margin is not a number" if clean[row].isnan() else "tie: the clean margin is exactly 0"
        yield PointRecord(
            index=int(indices[row]),
            label=int(labels[row]),
            predicted=int(predicted[row]),
            verdict=None if not verdicts else ("misclassified" if wrong else "unknown"),
            method="clean",
            margin_upper=None if clean[row].isnan() else float(clean[row]),
            distance_lower=None if verdicts else 0.0,
            distance_upper=None if verdicts or clean[row].isnan() else 0.0,
            exact=None if verdicts else not clean[row].isnan(),
            reason=None if wrong else reason,
            seconds=seconds,
        )
