"""The loop of every evaluation command: pending points in batches, each record on disk as soon as it is decided.

A rerun answers only what is not answered yet.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from robustcli.balls import Ball
from robustcli.errors import IncompleteError, Interrupted
from robustcli.evaluation.batch import Evaluator
from robustcli.evaluation.clean import judged
from robustcli.evaluation.session import Session
from robustcli.norms import any_exponent
from robustcli.results import provenance
from robustcli.results.schema import PointRecord, Provenance, Question, ResultDocument
from robustcli.results.store import PointStore, summarise, write_document, write_question

Progress = Callable[[int, int, dict[str, int]], None]
"""Called with (answered, requested, counts by verdict) after every batch."""

UNKNOWN = "not noted"
"""Who made an answer that does not say so."""

FLUSH = 0.2
"""Seconds after which records do not wait for the end of their batch to go to disk."""


def answer(
    session: Session,
    question: Question,
    evaluator: Evaluator,
    progress: Progress | None = None,
    *,
    first: Evaluator | None = None,
    forecast: Callable[[], None] | None = None,
    conclude: Callable[[Mapping[int, PointRecord]], dict[str, Any]] | None = None,
) -> ResultDocument:
    """Answer a question for all points of the session.

    Args:
        session: network, data, points, run folder.
        question: what is asked; its folder holds what was answered before.
        evaluator: the command's way of answering.
        progress: told as records come.
        first: a cheap pass over all points, which leaves to `evaluator` what it cannot decide.
        forecast: called between the two.
        conclude: what else the summary says once every point is answered, field by field.
    Returns:
        the result document, also written to the question's folder.
    Raises:
        Interrupted: on Ctrl-C, after writing what was decided.
        IncompleteError: when `max_seconds` ran out first.
    """
    folder = session.run.question_dir(question)
    write_question(folder, question)
    started = provenance.now()
    answers = _Answers(session, PointStore(folder, session.shard), progress)
    stopped: Interrupted | IncompleteError | None = None
    more: dict[str, Any] = {}
    try:
        if first is not None:
            answers.collect(question, first)
            if answers.pending and forecast is not None:
                forecast()
        answers.collect(question, evaluator)
        more = {} if conclude is None else conclude(answers.kept)
    except KeyboardInterrupt:
        stopped = Interrupted("interrupted", "the same command continues where it stopped")
    except IncompleteError as error:
        stopped = error
    finally:
        answers.flush()
    kept = answers.kept
    seconds = sum(record.seconds for record in kept.values())
    summary = summarise(kept, len(session.indices), seconds, proves=question.command != "attack")
    document = ResultDocument(
        question=question,
        summary=summary.model_copy(update=more),
        provenance=_provenance(session, kept.values(), started, provenance.now()),
    )
    if kept:
        write_document(folder, session.shard, document)
    if stopped is not None:
        stopped.message += f": {len(kept)} of {len(session.indices)} points answered"
        raise stopped
    return document


class _Answers:
    """What is answered and what is not; records as they come, on disk batch by batch, one by one where they take long.

    Args:
        session: with the points asked for.
        store: of the question.
        progress: told after every flush.
    """

    def __init__(self, session: Session, store: PointStore, progress: Progress | None) -> None:
        self.session, self.store, self.progress = session, store, progress
        self.answered = store.records()
        self.fresh: list[PointRecord] = []
        self.begin = self.flushed = time.monotonic()

    @property
    def pending(self) -> list[int]:
        """Points without an answer."""
        return [index for index in self.session.indices if index not in self.answered]

    @property
    def kept(self) -> dict[int, PointRecord]:
        """The answers to the points asked for."""
        return {index: self.answered[index] for index in self.session.indices if index in self.answered}

    def collect(self, question: Question, evaluator: Evaluator) -> None:
        """Ask about all pending points.

        Raises:
            IncompleteError: when `max_seconds` ran out.
        """
        pending, size = self.pending, self.session.selection.batch_size or evaluator.batch_size
        for chunk in (pending[i : i + size] for i in range(0, len(pending), size)):
            self.check_time()
            for record in _answer_batch(self.session, question, evaluator, chunk, self.check_time):
                self.fresh.append(record)
                if time.monotonic() - self.flushed > FLUSH:
                    self.flush()
            self.flush()

    def flush(self) -> None:
        """Put what is new on disk."""
        maker = provenance.maker()
        fresh, self.fresh = [record.model_copy(update={"made_by": maker}) for record in self.fresh], []
        self.flushed = time.monotonic()
        self.store.append(fresh)
        self.answered.update((record.index, record) for record in fresh)
        if self.progress is not None and fresh:
            self.progress(len(self.kept), len(self.session.indices), _counts(self.kept.values()))

    def check_time(self) -> None:
        """Stop when the time is over and there are points left."""
        limit = self.session.selection.max_seconds
        if limit is not None and time.monotonic() - self.begin > limit and len(self.pending) > len(self.fresh):
            raise IncompleteError(
                f"{limit:g} seconds ran out", "the same command continues where it stopped, with the same limit"
            )


def _answer_batch(
    session: Session, question: Question, evaluator: Evaluator, indices: list[int], pause: Callable[[], None]
) -> Iterator[PointRecord]:
    chosen = torch.tensor(indices)
    points = session.data.points(chosen, dtype=torch.float64, device=session.device)
    labels = session.data.labels_tensor(chosen, device=session.device)
    box = session.box() if question.boxed else None
    ball = Ball.around(points, question.eps or 0.0, any_exponent(question.norm), box)
    chosen, verdicts = chosen.to(session.device), question.eps is not None
    return judged(session.exact, evaluator, chosen, labels, ball, verdicts=verdicts, pause=pause)


def _counts(records: Iterable[PointRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        key = record.verdict or ("exact" if record.exact else "bounded")
        counts[key] = counts.get(key, 0) + 1
    return counts


def _provenance(session: Session, kept: Iterable[PointRecord], started: str, finished: str) -> Provenance:
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
        made_by=dict(Counter(record.made_by or UNKNOWN for record in kept)),
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
