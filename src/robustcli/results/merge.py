"""What all records of a network say together about one point and one ball.

A ball is (norm, eps, boxed). Records of different commands are claims about balls, and claims carry over:

    robust       of the whole ball     also of the ball cut with the input box, not the other way round
    vulnerable   inside the cut ball   also of the whole ball, not the other way round
    misclassified                      of every ball

Two claims about one point contradict each other when the ball with the witness lies inside the ball proved robust:
l_p ball of radius e inside l_q ball of radius e' whenever p <= q and e <= e'. A distance record claims both: no
misclassified point nearer than its lower bound, one at its upper bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcli.norms import any_exponent
from robustcli.results import store
from robustcli.results.distances import misclassified
from robustcli.results.runs import RunFolder
from robustcli.results.schema import PointRecord, Question, ResultDocument, Verdict
from robustcli.results.stages import SEARCHES
from robustcli.results.store import Line


@dataclass(frozen=True)
class Answers:
    """All that is stored for one question, its shards merged."""

    folder: Path
    question: Question
    lines: dict[int, Line]
    documents: list[ResultDocument]

    @property
    def records(self) -> list[PointRecord]:
        return [line.record for line in self.lines.values()]

    @property
    def seeks_witness(self) -> bool:
        """Whether the command can show a point to be vulnerable."""
        if self.question.command == "certify" and not SEARCHES.isdisjoint(self.question.settings.get("methods", ())):
            return True
        return self.question.command in ("attack", "mip-verify") or self._says("vulnerable")

    @property
    def seeks_proof(self) -> bool:
        """Whether the command can show a point to be robust."""
        return self.question.command in ("certify", "mip-verify") or self._says("robust")

    def _says(self, verdict: Verdict) -> bool:
        return any(record.verdict == verdict for record in self.records)


@dataclass(frozen=True)
class Ball:
    """The set around every point that a figure is about."""

    norm: str
    eps: float
    boxed: bool


@dataclass(frozen=True)
class Verdicts:
    """What is known about one ball: index -> verdict, and where a witness or a proof was looked for."""

    ball: Ball
    verdicts: dict[int, Verdict]
    attacked: frozenset[int]
    verified: frozenset[int]


def gather(run: RunFolder) -> list[Answers]:
    """The answers to all questions asked of a run, by folder name; a question without any answer is left out.

    Raises:
        DataError: when a stored file does not fit the schema.
        ContradictionError: when two records for the same question disagree.
    """
    found = []
    for folder in run.question_dirs():
        merged = store.merge_lines(folder)
        if merged:
            documents = [store.read_document(path) for path in store.result_files(folder)]
            found.append(Answers(folder, store.read_question(folder), merged, documents))
    return found


def carries(verdict: Verdict, asked_boxed: bool, boxed: bool) -> bool:
    """Whether a verdict about the (un)boxed ball also holds for the ball with `boxed`."""
    if verdict == "robust":
        return boxed or not asked_boxed
    if verdict == "vulnerable":
        return asked_boxed or not boxed
    return verdict == "misclassified" or asked_boxed == boxed


def balls(answers: Iterable[Answers]) -> list[Ball]:
    """The balls asked about by the yes-no commands, sorted."""
    found = {
        Ball(question.norm, question.eps, question.boxed)
        for question in (answer.question for answer in answers)
        if question.eps is not None
    }
    return sorted(found, key=lambda ball: (ball.norm, ball.eps, ball.boxed))


def errors(answers: Iterable[Answers]) -> set[int]:
    """The points that any record shows to be misclassified."""
    return {index for answer in answers for index, line in answer.lines.items() if misclassified(line.record)}


def verdicts(answers: Sequence[Answers], ball: Ball) -> Verdicts:
    """Combine all answers about `ball`, those that carry over from the boxed or the unboxed ball included."""
    combined: dict[int, Verdict] = {}
    attacked: set[int] = set()
    verified: set[int] = set()
    for answer in answers:
        question = answer.question
        if (question.norm, question.eps) != (ball.norm, ball.eps):
            continue
        if answer.seeks_witness and carries("vulnerable", question.boxed, ball.boxed):
            attacked.update(answer.lines)
        if answer.seeks_proof and carries("robust", question.boxed, ball.boxed):
            verified.update(answer.lines)
        for index, line in answer.lines.items():
            verdict = line.record.verdict
            if verdict is None or not carries(verdict, question.boxed, ball.boxed):
                verdict = "unknown"
            if combined.get(index, "unknown") == "unknown":
                combined[index] = verdict
    combined.update(dict.fromkeys(errors(answers), "misclassified"))
    asked = attacked | verified
    known = {index: combined[index] for index in sorted(asked)}
    return Verdicts(ball, known, frozenset(attacked), frozenset(verified))


@dataclass(frozen=True)
class _Claim:
    """A witness inside, or no witness inside, the ball of this norm and radius."""

    p: float
    radius: float
    boxed: bool
    distance: bool
    line: Line


def check(answers: Iterable[Answers]) -> None:
    """Look for two records, of whatever question, run and command, that cannot both be true.

    Raises:
        ContradictionError: naming both lines.
    """
    networks: dict[tuple[str, str], list[Answers]] = defaultdict(list)
    for answer in answers:
        networks[answer.question.model, answer.question.data].append(answer)
    for group in networks.values():
        _check_network(group)


def _check_network(answers: list[Answers]) -> None:
    lines: dict[int, list[tuple[Question, Line]]] = defaultdict(list)
    for answer in answers:
        for index, line in answer.lines.items():
            lines[index].append((answer.question, line))
    for stored in lines.values():
        proofs, witnesses, wrong = _claims(stored)
        if wrong and proofs:
            raise store.contradiction(wrong[0], proofs[0].line)
        for proof in proofs:
            for witness in witnesses:
                if _refutes(witness, proof):
                    raise store.contradiction(witness.line, proof.line)


def _claims(stored: list[tuple[Question, Line]]) -> tuple[list[_Claim], list[_Claim], list[Line]]:
    """The proofs, witnesses and clean errors among the records of one point."""
    proofs, witnesses, wrong = [], [], []
    for question, line in stored:
        record, p = line.record, any_exponent(question.norm)
        if misclassified(record):
            wrong.append(line)
        elif record.verdict is None:
            if record.distance_lower is not None and record.distance_lower > 0:
                proofs.append(_Claim(p, record.distance_lower, question.boxed, True, line))
            if record.distance_upper is not None:
                witnesses.append(_Claim(p, record.distance_upper, question.boxed, True, line))
        elif question.eps is not None:
            claim = _Claim(p, question.eps, question.boxed, False, line)
            if record.verdict == "robust":
                proofs.append(claim)
            elif record.verdict == "vulnerable":
                witnesses.append(claim)
    return proofs, witnesses, wrong


def _refutes(witness: _Claim, proof: _Claim) -> bool:
    if witness.p > proof.p or not carries("vulnerable", witness.boxed, proof.boxed):
        return False
    if witness.distance or proof.distance:
        return witness.radius * (1 + store.DISTANCE_TOLERANCE) < proof.radius
    return witness.radius <= proof.radius
