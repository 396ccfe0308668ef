"""Detection of adversarial inputs at test time (003 Corollary 2).

If every input within eps of x provably has the class predicted at x, then x is no perturbation, by at most eps, of an
input that the network classifies correctly while it misclassifies x. Inputs without this certificate are flagged. So
no adversarial input is ever missed; how many others are flagged is what is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.errors import ContradictionError
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import Certifier, Settings
from robustcli.evaluation.session import Session
from robustcli.networks.network import margins
from robustcli.norms import any_exponent
from robustcli.results.schema import Detection, PointRecord, Question
from robustcli.results.witnesses import Witness, all_witnesses


class Detector:
    """Says how many inputs are flagged, for the answers to one question.

    Correctly classified test points are certified for their predicted class already. What remains are the other test
    points, and the stored misclassified inputs that lie within eps of a correctly classified point.

    Args:
        session: network, data, witnesses.
        question: norm, eps and box.
        settings: of the certificate.
    """

    def __init__(self, session: Session, question: Question, settings: Settings) -> None:
        self.session, self.question = session, question
        self.certifier = Certifier(session.network, settings)  # keeps no witnesses: labels are predictions here

    def __call__(self, records: Mapping[int, PointRecord]) -> Detection:
        """The figures over all answered points.

        Raises:
            ContradictionError: when an adversarial input has the certificate.
        """
        right = {index for index, record in records.items() if record.method != "clean"}
        wrong = sorted(records.keys() - right)
        missed = [index for index in right if records[index].verdict != "robust"]
        misclassified = self.flagged(self.session.data.points(torch.tensor(wrong), torch.float64)) if wrong else 0
        found = self.adversarial(right)
        flagged = self.flagged(torch.stack([torch.from_numpy(one.witness) for one in found])) if found else 0
        if flagged < len(found):
            raise ContradictionError(
                f"{len(found) - flagged} adversarial inputs within eps of a test point are certified themselves",
                "this is a bug; please report it with the checkpoint and the command line",
            )
        return Detection(
            clean=len(records),
            clean_flagged=len(missed) + misclassified,
            misclassified=len(wrong),
            misclassified_flagged=misclassified,
            adversarial=len(found),
            adversarial_flagged=flagged,
        )

    def adversarial(self, right: set[int]) -> list[Witness]:
        """Stored misclassified inputs within eps of these points, in the norm and box of the question."""
        p, box = any_exponent(self.question.norm), self.box
        found = []
        for one in all_witnesses(self.session.run.witnesses):
            if one.model != self.session.model_hash or one.index not in right:
                continue
            ball = Ball.around(torch.from_numpy(one.point).unsqueeze(0), self.question.eps or 0.0, p, box)
            if bool(ball.contains(torch.from_numpy(one.witness).unsqueeze(0))):
                found.append(one)
        return found

    def flagged(self, points: Tensor) -> int:
        """How many of these inputs have no certificate for their predicted class; points [N, *input_shape]."""
        p, count = any_exponent(self.question.norm), 0
        for chunk in points.to(self.session.device).split(self.certifier.batch_size):
            with torch.no_grad():
                logits = self.session.exact(chunk)
            predicted = logits.argmax(1)
            batch = Batch(
                indices=torch.arange(len(chunk), device=chunk.device),
                points=chunk,
                labels=predicted,
                predicted=predicted,
                clean_margins=margins(logits, predicted),
                ball=Ball.around(chunk, self.question.eps or 0.0, p, self.box),
            )
            count += sum(record.verdict != "robust" for record in self.certifier(batch))
        return count

    @property
    def box(self) -> tuple[float, float] | None:
        """The box of the question."""
        return self.session.box() if self.question.boxed else None
