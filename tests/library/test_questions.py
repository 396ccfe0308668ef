"""certify, attack and distance from Python: the answers of the commands, witnesses the user's own model confirms."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustcli as robust
from robustcli.cli.app import run
from robustcli.data.datasets import load as load_split
from robustcli.errors import UnknownNameError, UsageError
from robustcli.norms import NORMS, exponent
from robustcli.results.runs import RunFolder
from robustcli.results.schema import PointRecord
from robustcli.results.store import merge
from tests.classifiers import digits_run
from tests.library.models import as_torch, convolutional, doubled, perceptron

POINTS = 24


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, nn.Sequential, Tensor, Tensor]:
    """A trained classifier as a run of the command line and as a model of torch; the first test points and labels."""
    path = digits_run(tmp_path)
    split = load_split("digits", "test")
    index = torch.arange(POINTS)
    return path, as_torch(robust.load(path)), split.points(index, torch.float64), split.labels_tensor(index)


def of_command(path: Path, words: str) -> dict[int, PointRecord]:
    """Run a command and read its records."""
    assert run([*words.split(), "--checkpoint", str(path), "--points", str(POINTS)]) == 0
    (folder,) = RunFolder(path.parent).question_dirs()
    return merge(folder)


def alike(found: tuple[PointRecord, ...], expected: dict[int, PointRecord]) -> None:
    """The same answers; margins and distances up to sums in another order."""
    assert [record.index for record in found] == sorted(expected)
    for record in found:
        other = expected[record.index]
        for field in ("label", "predicted", "verdict", "method", "exact", "reason"):
            assert getattr(record, field) == getattr(other, field)
        for field in ("margin_lower", "margin_upper", "distance_lower", "distance_upper"):
            one, two = getattr(record, field), getattr(other, field)
            assert (one is None) == (two is None)
            assert one is None or one == pytest.approx(two, rel=1e-6, abs=1e-9)


def test_certify_answers_as_the_command(digits: tuple[Path, nn.Sequential, Tensor, Tensor]) -> None:
    path, model, points, labels = digits
    limits = {"complete": True, "max_nodes": 300}
    answer = robust.certify(model, points, labels, norm="l2", eps="1/4", box=(0, 1), **limits)
    alike(answer.records, of_command(path, "certify --norm l2 --eps 1/4 --complete --max-nodes 300"))
    assert min(answer.counts[name] for name in ("robust", "vulnerable", "misclassified")) > 0
    assert answer.stages["dual"].asked == POINTS - answer.counts["misclassified"]


def test_attack_answers_as_the_command(digits: tuple[Path, nn.Sequential, Tensor, Tensor]) -> None:
    path, model, points, labels = digits
    answer = robust.attack(model, points, labels, norm="linf", eps=0.06, box=(0, 1), steps=20, restarts=2)
    alike(answer.records, of_command(path, "attack --norm linf --eps 0.06 --steps 20 --restarts 2"))
    assert min(answer.counts[name] for name in ("vulnerable", "misclassified", "unknown")) > 0


def test_distance_answers_as_the_command(digits: tuple[Path, nn.Sequential, Tensor, Tensor]) -> None:
    path, model, points, labels = digits
    answer = robust.distance(model, points, labels, norm="l1", methods=["region", "kw"])
    alike(answer.records, of_command(path, "bound-distance --norm l1 --no-box -m region -m kw"))
    assert bool((answer.lower <= answer.upper).all())
    wrong = torch.tensor([record.method == "clean" for record in answer.records])
    assert bool(wrong.any())
    assert bool((answer.upper[wrong] == 0).all() and (answer.lower[~wrong] > 0).all())


def test_distance_by_the_attacks_named() -> None:
    model, points = perceptron(3, 8, 3, seed=2), torch.rand(4, 3)
    labels = model(points).argmax(1)
    settings = {"norm": "l2", "box": (0, 1), "methods": ["region"], "polish": 0, "each": True}
    alone = [robust.distance(model, points, labels, attacks=name, **settings) for name in ("nearest", "fab")]
    both = robust.distance(model, points, labels, attacks=["nearest", "fab"], **settings)
    assert all(list(record.details["upper"]) == ["nearest", "fab"] for record in both.records)
    assert bool((both.upper == torch.minimum(alone[0].upper, alone[1].upper)).all())
    with pytest.raises(UsageError, match="looks for any misclassified point"):
        robust.distance(model, points, labels, norm="l2", attacks="pgd")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_the_model_itself_confirms_the_witnesses(norm: str, box: tuple[float, float] | None) -> None:
    """What is vulnerable is misclassified by the user's model in the ball; what is robust, no attack breaks."""
    model, points = convolutional(3), torch.rand(10, 3, 6, 6)
    labels = model(points).argmax(1)
    eps = {"linf": 0.03, "l2": 0.2, "l1": 0.6}[norm]
    proofs = robust.certify(model, points, labels, norm=norm, eps=eps, box=box, complete=True, max_nodes=200)
    search = robust.attack(model, points, labels, norm=norm, eps=eps, box=box, steps=20, restarts=1)
    assert {"robust", "vulnerable"} <= set(proofs.verdicts)
    for answer in (proofs, search):
        assert sorted(answer.witnesses) == [row for row, found in enumerate(answer.verdicts) if found == "vulnerable"]
        for row, x in answer.witnesses.items():
            logits = doubled(model, x.unsqueeze(0))[0]
            margin = logits[labels[row]] - logits.scatter(0, labels[row], -math.inf).max()
            assert float(margin) == pytest.approx(float(answer.upper[row]), abs=1e-9)
            assert margin < 0
            assert float(torch.linalg.vector_norm(x - points[row], ord=exponent(norm))) <= eps
            assert box is None or bool(((x >= box[0]) & (x <= box[1])).all())
            assert proofs.verdicts[row] != "robust"
            assert proofs.lower[row] <= margin


def test_answers_do_not_depend_on_the_others() -> None:
    model, points = perceptron(6, 12, 12, 3, seed=1), torch.rand(20, 6)
    labels = model(points).argmax(1)
    question = {
        "norm": "linf",
        "eps": (0.05, 0.1, 0.02, 0.1, 0.05, 0.02),
        "box": (0, 1),
        "inputs": robust.Normalised(0.1, 0.9),
    }
    points = (points - 0.1) / 0.9
    whole = robust.certify(model, points, labels, **question)
    part = robust.certify(model, points[7:11], labels[7:11], **question)
    assert whole.verdicts[7:11] == part.verdicts
    torch.testing.assert_close(whole.lower[7:11], part.lower, rtol=1e-6, atol=1e-9)


def test_arrays_and_progress() -> None:
    model, points = perceptron(3, 6, 2), torch.rand(5, 3)
    labels, told = model(points).argmax(1), []
    found = robust.certify(
        model, points.numpy(), labels.numpy(), norm="l1", eps=np.float32(0.125), progress=lambda *now: told.append(now)
    )
    assert told == [(number, 5) for number in range(1, 6)]
    expected = robust.certify(model, points, labels.int(), norm="l1", eps=0.125)
    assert found.verdicts == expected.verdicts
    assert len(found) == 5


def test_random_numbers_stay_where_they_are() -> None:
    model, points = perceptron(3, 6, 2), torch.rand(2, 3)
    labels = model(points).argmax(1)
    torch.manual_seed(7)
    robust.attack(model, points, labels, norm="linf", eps=0.1, steps=3, restarts=1)
    robust.distance(model, points, labels, norm="linf", box=(0, 1))
    robust.certify(model, points, labels, norm="linf", eps=0.1, inputs=robust.Normalised(0.5, 0.5), complete=True)
    found = torch.rand(3)
    torch.manual_seed(7)
    assert bool((torch.rand(3) == found).all())


def test_answers_print_as_short_tables() -> None:
    model, points = perceptron(3, 6, 2), torch.rand(4, 3)
    labels = model(points).argmax(1)
    labels[0] = 1 - labels[0]
    title, heads, cells = str(robust.certify(model, points, labels, norm="linf", eps="1/1000", box=(0, 1))).split("\n")
    assert title == "certify: linf, eps 0.001, box [0, 1]"
    assert heads.split() == ["points", "robust", "vulnerable", "misclassified", "unknown", "seconds"]
    assert cells.split()[:5] == ["4", "3", "0", "1", "0"]
    assert len(heads) == len(cells) <= 80
    title, heads, cells = str(robust.distance(model, points[:1], labels[:1], norm="l2")).split("\n")
    assert title == "distance: l2, no box"
    assert cells.split()[:4] == ["1", "1", "-", "-"]
    by_channel = robust.certify(model, points, labels, norm="l1", eps=(0.1, 0.2, 0.3))
    assert by_channel.question == "certify: l1, eps 0.1 to 0.3 by channel, no box"


def test_a_tie_is_unknown_with_its_reason() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    for weight in model.parameters():
        weight.data.zero_()
    answer = robust.certify(model, torch.rand(1, 2), torch.tensor([0]), norm="l2", eps=1)
    assert answer.reasons == {0: "tie: the clean margin is exactly 0"}
    assert answer.lower.tolist() == [-math.inf]


MODEL = perceptron(3, 4, 2)
CLEAN = {"points": torch.full((2, 3), 0.5), "labels": torch.tensor([0, 1]), "norm": "linf", "eps": 0.1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": torch.rand(3)}, "points of shape [3]; they are [N, *input_shape]"),
        ({"points": torch.rand(0, 3), "labels": torch.zeros(0).long()}, "points of shape [0, 3] are none"),
        ({"points": torch.rand(2, 5)}, "0: Linear: a linear layer for 3 inputs meets inputs of shape [5]"),
        ({"points": torch.zeros(2, 3, dtype=torch.uint8)}, "points are torch.uint8"),
        ({"points": torch.tensor([[0.0, 0, 0], [0, math.nan, 0]])}, "point 1 holds NaN"),
        ({"labels": torch.tensor([0, 2])}, "label 2 of point 1 is no class of a network with 2 logits"),
        ({"labels": torch.tensor([-1, 0])}, "label -1 of point 0"),
        ({"labels": torch.tensor([0])}, "labels are torch.int64 of shape [1]; 2 class numbers"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels are torch.float32"),
        ({"norm": "linff"}, "did you mean 'linf'?"),
        ({"norm": "union"}, "known: l1, l2, linf"),
        ({"eps": 0}, "eps = 0 must be positive"),
        ({"eps": "-1/255"}, "must be positive"),
        ({"eps": "much"}, "'much' is not a number"),
        ({"eps": math.inf}, "is not a finite number"),
        ({"eps": 8, "box": (0, 1)}, "write 8/255 rather than 8"),
        ({"box": (1, 0)}, "is empty"),
        ({"box": 1.0}, "is not (lower, upper)"),
        ({"box": (0, 0.4)}, "point 0 lies outside the box"),
        ({"methods": ["crwn"]}, "did you mean 'crown'?"),
        ({"time_limit": 3}, "--complete"),
    ],
)
def test_questions_that_cannot_be_asked(change: dict[str, object], words: str) -> None:
    question = {**CLEAN, **change}
    with pytest.raises(UsageError) as caught:
        robust.certify(MODEL, **question)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert isinstance(caught.value, UnknownNameError) == ("norm" in change or "methods" in change)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"none of .* has 'step'"):
        robust.attack(MODEL, **CLEAN, step=3)
    with pytest.raises(UsageError, match="distance: regions: "):
        robust.distance(MODEL, CLEAN["points"], CLEAN["labels"], norm="l2", regions=-1)  # type: ignore[arg-type]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, robustcli; assert 'certify' in dir(robustcli) and robustcli.__version__; "
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); "
        "assert not hasattr(robustcli, 'certfy')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {name for name in robust.__all__ if getattr(robust, name).__name__ == name} == set(robust.__all__)
