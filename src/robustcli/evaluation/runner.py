"""The loop of every evaluation command: pending points in batches, each record on disk as soon as it is decided.

The clean check happens here, once for all commands: by the float64 margin a point is misclassified (< 0), a tie (= 0,
never a verdict), or handed to the command's evaluator. A rerun answers only what is not answered yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from robustcli.balls import Ball
from robustcli.errors import IncompleteError, Interrupted
from robustcli.evaluation.batch import Batch, Evaluator
from robustcli.evaluation.session import Session
from robustcli.networks.network import margins
from robustcli.norms import any_exponent
from robustcli.results import provenance
from robustcli.results.schema import PointRecord, Provenance, Question, ResultDocument
from robustcli.results.store import PointStore, summarise, write_document, write_question

Progress = Callable[[int, int, dict[str, int]], None]
"""Called with (answered, requested, counts by verdict) after every batch."""


def answer(
    session: Session, question: Question, evaluator: Evaluator, progress: Progress | None = None
) -> ResultDocument:
    """Answer a question for all points of the session.

    Args:
        session: network, data, points, run folder.
        question: what is asked; its folder holds what was answered before.
        evaluator: the command's way of answering.
        progress: told after every batch.
    Returns:
        the result document, also written to the question's folder.
    Raises:
        Interrupted: on Ctrl-C, after writing what was decided.
        IncompleteError: when `max_seconds` ran out first.
    """
    folder = session.run.question_dir(question)
    write_question(folder, question)
    store = PointStore(folder, session.shard)
    answered = dict(store.records())
    pending = [index for index in session.indices if index not in answered]
    started, begin = provenance.now(), time.monotonic()
    size = session.selection.batch_size or evaluator.batch_size
    stopped: Interrupted | IncompleteError | None = None
    limit = session.selection.max_seconds
    try:
        for chunk in (pending[i : i + size] for i in range(0, len(pending), size)):
            if limit is not None and time.monotonic() - begin > limit:
                stopped = IncompleteError(
                    f"{limit:g} seconds ran out", "the same command continues where it stopped, with the same limit"
                )
                break
            records = _answer_batch(session, question, evaluator, chunk)
            store.append(records)
            answered.update((record.index, record) for record in records)
            if progress is not None:
                done = [answered[index] for index in session.indices if index in answered]
                progress(len(done), len(session.indices), _counts(done))
    except KeyboardInterrupt:
        stopped = Interrupted("interrupted", "the same command continues where it stopped")
    wanted = set(session.indices)
    kept = {index: record for index, record in answered.items() if index in wanted}
    seconds = sum(record.seconds for record in kept.values())
    summary = summarise(kept, len(session.indices), seconds, proves=question.command != "attack")
    document = ResultDocument(
        question=question, summary=summary, provenance=_provenance(session, started, provenance.now())
    )
    if kept:
        write_document(folder, session.shard, document)
    if stopped is not None:
        stopped.message += f": {len(kept)} of {len(session.indices)} points answered"
        raise stopped
    return document


def _answer_batch(session: Session, question: Question, evaluator: Evaluator, indices: list[int]) -> list[PointRecord]:
    begin = time.monotonic()
    chosen = torch.tensor(indices)
    points = session.data.points(chosen, dtype=torch.float64, device=session.device)
    labels = session.data.labels_tensor(chosen, device=session.device)
    with torch.no_grad():
        logits = session.exact(points)
    clean, predicted = margins(logits, labels), logits.argmax(1)
    seconds = (time.monotonic() - begin) / len(indices)
    records: dict[int, PointRecord] = {}
    distance = question.eps is None
    for row in (~(clean > 0)).nonzero().flatten().tolist():
        wrong = bool(clean[row] < 0)
        reason = "the clean margin is not a number" if clean[row].isnan() else "tie: the clean margin is exactly 0"
        records[indices[row]] = PointRecord(
            index=indices[row],
            label=int(labels[row]),
            predicted=int(predicted[row]),
            verdict=None if distance else ("misclassified" if wrong else "unknown"),
            method="clean",
            margin_upper=None if clean[row].isnan() else float(clean[row]),
            distance_lower=0.0 if distance else None,
            distance_upper=0.0 if distance and not clean[row].isnan() else None,
            exact=not clean[row].isnan() if distance else None,
            reason=None if wrong else reason,
            seconds=seconds,
        )
    right = (clean > 0).nonzero().flatten()
    if len(right):
        p, box = any_exponent(question.norm), (session.box() if question.boxed else None)
        batch = Batch(
            indices=chosen.to(session.device)[right],
            points=points[right],
            labels=labels[right],
            predicted=predicted[right],
            clean_margins=clean[right],
            ball=Ball.around(points[right], question.eps or 0.0, p, box),
        )
        records.update((record.index, record) for record in evaluator(batch))
    return [records[index] for index in indices]


def _counts(records: list[PointRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        key = record.verdict or ("exact" if record.exact else "bounded")
        counts[key] = counts.get(key, 0) + 1
    return counts


def _provenance(session: Session, started: str, finished: str) -> Provenance:
    metadata = session.checkpoint.metadata
    return Provenance(
        recipe=session.recipe.name if session.recipe else metadata.recipe,
        recipe_hash=metadata.recipe_hash,
        overrides=list(session.selection.overrides) or session.run.overrides(),
        checkpoint=str(session.checkpoint.path),
        architecture=session.network.name,
        dataset=session.spec.name,
        split=session.data.name,
        partial=session.data.partial,
        seed=session.selection.seed if session.selection.recipe else metadata.seed or 0,
        points=session.selection.points,
        shard=session.selection.shard,
        versions=provenance.versions(),
        commit=provenance.commit(),
        hardware=provenance.hardware(),
        device=str(session.device),
        dtype="float64",
        threads=torch.get_num_threads(),
        command_line=provenance.command_line(),
        started=started,
        finished=finished,
    )
