"""What is counted of attacks: from the records of the points alone."""

from __future__ import annotations

from robustcli.results.attacks import attack_figures
from robustcli.results.schema import PointRecord


def standing(index: int, *asked: str) -> PointRecord:
    """A point that some attacks did not break."""
    tried = {name: {"broke": False, "margin": 1.0, "passes": 10, "seconds": 0.5} for name in asked}
    details = {"attacks": tried}
    return PointRecord(index=index, label=1, predicted=1, verdict="unknown", method="fgsm", seconds=1, details=details)


def test_a_bound_of_its_own_has_an_attack_that_was_asked_about_every_point() -> None:
    clean = PointRecord(index=0, label=1, predicted=2, verdict="misclassified", method="clean", seconds=0)
    fell = standing(1, "fgsm", "pgd")
    fell.details["attacks"]["fgsm"]["broke"] = True
    fell = fell.model_copy(update={"verdict": "vulnerable"})
    rows = [clean, fell, standing(2, "fgsm"), standing(3, "fgsm")]
    found = attack_figures(rows)
    assert found is not None
    assert (found["fgsm"].asked, found["fgsm"].broken, found["fgsm"].first) == (3, 1, 1)
    assert found["fgsm"].lower == 2 / 4
    assert found["pgd"].lower is None
    cut = attack_figures([*rows, standing(4)])  # the time ran out before any attack
    assert cut is not None
    assert cut["fgsm"].asked == 3
    assert cut["fgsm"].lower is None
