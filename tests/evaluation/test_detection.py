"""Detection at test time: an input is flagged exactly when its predicted class is not certified, and no adversarial one
is ever missed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.errors import ContradictionError
from robustcli.evaluation import attack
from robustcli.evaluation.certify import Certifier, Settings
from robustcli.evaluation.detection import Detector
from robustcli.evaluation.runner import answer
from robustcli.evaluation.session import Selection, Session, open_session
from robustcli.networks.network import margin_rows
from robustcli.results.schema import Detection, PointRecord, Question
from robustcli.results.store import PointStore
from robustcli.results.witnesses import all_witnesses
from tests.classifiers import digits_run

EPS = 0.05


def session(folder: Path, eps: float = EPS) -> Session:
    """A small classifier and 60 points."""
    path = digits_run(folder)
    return open_session(Selection(checkpoint=path, points="60", norm="linf", eps=str(eps), out=folder))


def question(current: Session, command: str = "certify", eps: float = EPS) -> Question:
    return Question(command=command, norm="linf", eps=eps, boxed=True, model=current.model_hash, data=current.data.hash)  # type: ignore[arg-type]


def detect(current: Session, eps: float = EPS) -> Detection:
    """Certify by the KW dual, then count."""
    settings, asked = Settings(methods=["dual"]), question(current, eps=eps)
    detector = Detector(current, asked, settings)
    document = answer(
        current,
        asked,
        Certifier(current.network, settings, current.run.witnesses),
        conclude=lambda records: {"detection": detector(records)},
    )
    assert document.summary.detection is not None
    return document.summary.detection


def attacked(current: Session) -> dict[int, PointRecord]:
    """Witnesses for what is not robust."""
    settings = attack.Settings.only("apgd-wide", steps=20, restarts=1, targets=3)
    asked = question(current, "attack")
    answer(current, asked, attack.Attacker(current.network, settings, current.run.witnesses))
    return PointStore(current.run.question_dir(asked)).records()


def uncertified(current: Session, points: torch.Tensor, eps: float = EPS) -> int:
    """How many inputs the dual bound does not certify for their predicted class."""
    rows, _ = margin_rows(current.exact(points).argmax(1), 10, torch.float64)
    ball = Ball.around(points, eps, float("inf"), (0.0, 1.0))
    return int((~(dual(current.exact, ball, rows).margins > 0).all(1)).sum())


def test_flagged_is_what_has_no_certificate_for_its_predicted_class(tmp_path: Path) -> None:
    current = session(tmp_path)
    found = detect(current)
    points = current.data.points(torch.tensor(current.indices), torch.float64)
    labels = current.data.labels_tensor(torch.tensor(current.indices))
    wrong = current.exact(points).argmax(1) != labels
    assert (found.clean, found.misclassified) == (60, int(wrong.sum()))
    assert found.misclassified > 0
    assert found.clean_flagged == uncertified(current, points)
    assert found.misclassified_flagged == uncertified(current, points[wrong])
    assert 0 < found.clean_flagged < 60
    assert (found.adversarial, found.adversarial_flagged) == (0, 0)


def test_every_adversarial_input_is_flagged(tmp_path: Path) -> None:
    current = session(tmp_path)
    fallen = sum(record.verdict == "vulnerable" for record in attacked(current).values())
    found = detect(current)
    assert fallen > 0
    assert (found.adversarial, found.adversarial_flagged) == (fallen, fallen)
    witnesses = torch.stack([torch.from_numpy(one.witness) for one in all_witnesses(current.run.witnesses)])
    assert uncertified(current, witnesses) == fallen


def test_witnesses_of_larger_balls_or_other_networks_do_not_count(tmp_path: Path) -> None:
    current = session(tmp_path)
    attacked(current)
    assert detect(current, eps=EPS / 100).adversarial == 0
    for one in all_witnesses(current.run.witnesses):
        (current.run.witnesses / one.name).unlink()
    assert detect(session(tmp_path)).adversarial == 0


def test_a_certified_adversarial_input_is_a_contradiction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = session(tmp_path)
    attacked(current)
    records = {
        index: PointRecord(index=index, label=0, predicted=0, verdict="unknown", method="dual", seconds=0)
        for index in current.indices
    }
    monkeypatch.setattr(Detector, "flagged", lambda self, points: 0)
    with pytest.raises(ContradictionError, match="adversarial inputs within eps"):
        Detector(current, question(current), Settings(methods=["dual"]))(records)
