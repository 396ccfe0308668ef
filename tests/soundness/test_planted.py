"""Planted misclassified inputs: nothing may be proved robust where one lies inside the ball, whoever is asked; and
nothing may be called vulnerable where the nearest one is known to lie outside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcli.attacks.verify import confirm
from robustcli.bounds.alpha import alpha
from robustcli.bounds.layered import Effort
from robustcli.bounds.optimiser import Ascent
from robustcli.bounds.zonotope import ZonotopeSettings
from robustcli.evaluation import distance_upper
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.cascade import Budget, Context, State
from robustcli.evaluation.certify import BOUNDS, Certifier, Settings, stages
from robustcli.evaluation.distance_methods import METHODS, certified
from robustcli.evaluation.distance_work import Work
from robustcli.evaluation.exact import ExactVerifier
from robustcli.evaluation.exact import Settings as ExactSettings
from robustcli.mip.solver import SOLVERS
from robustcli.networks.layers import Conv2d, Linear
from robustcli.networks.network import Network, margins
from robustcli.results.schema import PointRecord
from robustcli.results.witnesses import load
from tests.soundness.planted import Box, Planted
from tests.soundness.suite import BALLS, BOX, JUST_INSIDE, JUST_OUTSIDE, OTHERS, asked, questions

QUICK = ("interval", "crown-ibp", "dual", "crown")
LOW = Budget(
    search=Effort(margins=Ascent(iterations=5), hidden=Ascent(iterations=4)),
    zonotope=ZonotopeSettings(iterations=4),
)
"""Effort of searches: whatever they find must be sound."""
NODES = 60
SOLVED = [name for name, make in SOLVERS.items() if make().licence().usable]


def part(name: str, p: float, box: Box) -> int:
    """Which part of the questions a stage is asked in the short run."""
    return list(stages()).index(name) + (BALLS + OTHERS).index((p, box))


def long(values: list) -> list:  # type: ignore[type-arg]
    return [pytest.param(*value, marks=pytest.mark.long) for value in values]


def test_the_questions_are_what_they_claim() -> None:
    """Every planted input lies in its ball and is misclassified, by the judge of all attacks; points lie on faces of
    the box, inputs outside of it where it does not count."""
    total = on_faces = outside = 0
    for p, box in BALLS:
        for each in questions(p, box):
            batch = each.batch(JUST_OUTSIDE)
            assert (batch.clean_margins > 0).all()
            assert confirm(each.network, batch.ball, each.labels, each.planted).success.all()
            total += len(each)
            on_faces += int(((each.points == 0) | (each.points == 1)).flatten(1).any(1).sum())
            outside += int(((each.planted < 0) | (each.planted > 1)).flatten(1).any(1).sum()) * (box is None)
    assert total >= 500
    assert on_faces >= 100
    assert outside >= 100


def test_samples_nearer_than_the_planted_inputs_are_classified_correctly() -> None:
    for p, box in BALLS:
        for each in questions(p, box):
            if each.nearest:
                inside = each.batch(JUST_INSIDE).ball.sample(200, torch.Generator().manual_seed(0))
                labels = each.labels.repeat_interleave(200)
                assert (margins(each.network(inside.flatten(0, 1)), labels) > 0).all()


def holds(each: Planted, name: str) -> None:
    """A bound's margins and hidden bounds over the balls against the planted inputs' own values."""
    state = State.of(each.batch(JUST_OUTSIDE), each.network.classes)
    with torch.no_grad():
        found = stages()[name].run(state, Context(each.network, each.network, LOW, None), None)
    true = (state.rows @ each.network(each.planted).unsqueeze(2)).squeeze(2)
    assert found.margins is not None
    assert found.layers is not None
    assert (found.margins <= true).all(), each.name
    for values, bounds in zip(each.network.pre_activations(each.planted), found.layers, strict=False):
        assert (values >= bounds.lower).all(), each.name
        assert (values <= bounds.upper).all(), each.name


def bounds(names: list[str]) -> list[tuple[str, float, Box]]:
    known = stages()
    return [(name, p, box) for name in names for p, box in BALLS + OTHERS if known[name].applies(p)]


@pytest.mark.parametrize(("name", "p", "box"), bounds([name for name in BOUNDS if name in QUICK]))
def test_quick_bounds_hold_at_planted_inputs(name: str, p: float, box: Box) -> None:
    for each in asked(p, box, None):
        holds(each, name)


SEARCHED = [name for name in BOUNDS if name not in QUICK]


@pytest.mark.parametrize(("name", "p", "box"), bounds(SEARCHED))
def test_searched_bounds_hold_at_planted_inputs(name: str, p: float, box: Box) -> None:
    for each in asked(p, box, part(name, p, box)):
        holds(each, name)


@pytest.mark.parametrize(("name", "p", "box"), long(bounds(SEARCHED)))
def test_searched_bounds_hold_at_all_planted_inputs(name: str, p: float, box: Box) -> None:
    for each in asked(p, box, None):
        holds(each, name)


CASCADES = {
    "bounds": list(BOUNDS),
    "linear programs": ["dual", "lp"],
    "partial": ["dual", "attack", "zonotope-per-class", "refine", "partial-mip"],
    "complete": ["crown", "branch-and-bound"],
    "everything": ["dual", "attack", "lp", "alpha", "branch-and-bound"],
}


def records(each: Planted, methods: list[str], stretch: float, folder: Path | None = None) -> list[PointRecord]:
    """One record a point, in the order of the points."""
    known = [name for name in methods if stages()[name].applies(each.p)]
    settings = Settings(methods=known, max_nodes=NODES if "branch-and-bound" in known else None)
    settings = Settings(**{**dict(settings), "search": LOW.search, "zonotope": LOW.zonotope})
    found = list(Certifier(each.network, settings, folder)(each.batch(stretch)))
    return sorted(found, key=lambda record: record.index)


def judge(each: Planted, methods: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Verdicts just outside and just inside the planted inputs, none of them wrong; what they rest on checked again."""
    true = each.wrong().tolist()
    for row, record in enumerate(records(each, methods, JUST_OUTSIDE, folder)):
        assert record.verdict != "robust", each.name
        assert (record.margin_lower or 0.0) <= max(true[row], 0.0), each.name
        if record.verdict == "vulnerable":
            check(each, row, each.batch(JUST_OUTSIDE), folder, record)
        yield "outside", str(record.verdict)
    if each.nearest:
        for record in records(each, methods, JUST_INSIDE, folder):
            assert record.verdict != "vulnerable", each.name
            yield "inside", str(record.verdict)


def check(each: Planted, row: int, batch: Batch, folder: Path, record: PointRecord) -> None:
    """The stored witness: in ball and box and misclassified, computed anew."""
    assert record.witness is not None
    found = load(folder / record.witness)
    moved = (found.witness - each.points[row].numpy()).ravel()
    assert np.linalg.norm(moved, ord=each.p) <= float(batch.ball.eps[row])
    assert each.box is None or (found.witness.min() >= each.box[0] and found.witness.max() <= each.box[1])
    logits = each.network(torch.from_numpy(found.witness).unsqueeze(0))
    assert float(margins(logits, each.labels[row : row + 1])) < 0


def answers(name: str, p: float, box: Box, share: int | None, folder: Path) -> list[tuple[str, str]]:
    """(outside or inside, verdict) of a cascade for all questions of a part."""
    return [answer for each in asked(p, box, share) for answer in judge(each, CASCADES[name], folder)]


SOME = [
    *[("bounds", p, box) for p, box in BALLS if box is None],
    *[("linear programs", p, box) for p, box in BALLS if p != 2],
    *[("partial", p, box) for p, box in BALLS if math.isinf(p)],
    *[("everything", p, box) for p, box in BALLS if box is not None],
]


@pytest.mark.parametrize(("name", "p", "box"), SOME)
def test_no_cascade_is_wrong(name: str, p: float, box: Box, tmp_path: Path) -> None:
    assert len(answers(name, p, box, part(CASCADES[name][-1], p, box), tmp_path)) >= 15


@pytest.mark.long
@pytest.mark.parametrize(("p", "box"), BALLS)
@pytest.mark.parametrize("name", CASCADES)
def test_no_cascade_is_wrong_anywhere(name: str, p: float, box: Box, tmp_path: Path) -> None:
    assert len(answers(name, p, box, None, tmp_path)) >= 140


@pytest.mark.parametrize(("p", "box"), BALLS)
def test_branch_and_bound_is_never_wrong_and_decides_most_questions(p: float, box: Box, tmp_path: Path) -> None:
    """With a few dozen nodes a point: the questions are no trick, and the answers mean something."""
    seen = answers("complete", p, box, part("branch-and-bound", p, box), tmp_path)
    assert seen.count(("outside", "vulnerable")) >= 0.8 * sum(where == "outside" for where, _ in seen)
    assert seen.count(("inside", "robust")) >= 0.4 * sum(where == "inside" for where, _ in seen)


@pytest.mark.parametrize("box", [None, BOX])
@pytest.mark.parametrize("solver", SOLVED)
def test_no_solver_is_wrong(solver: str, box: Box) -> None:
    settings = ExactSettings(attack=None, solver=solver, time_limit=20)
    decided = 0
    for each in asked(math.inf, box, 1):
        verifier = ExactVerifier(each.network, settings)
        for record, true in zip(verifier(each.batch(JUST_OUTSIDE)), each.wrong().tolist(), strict=True):
            assert record.verdict != "robust", each.name
            assert (record.margin_lower or 0.0) <= true + 1e-6
            decided += record.verdict == "vulnerable"
        if each.nearest:
            assert all(record.verdict != "vulnerable" for record in verifier(each.batch(JUST_INSIDE)))
    assert decided >= 3


DISTANCES = {**METHODS, "alpha": certified(partial(alpha, effort=LOW.search))}
"""Every method of `robust bound-distance`."""


@pytest.mark.parametrize(("p", "box"), [*BALLS, *OTHERS, (3.0, BOX)])
def test_no_certified_distance_reaches_a_planted_input(p: float, box: Box) -> None:
    """Theorem 3.1 and its neighbours, universal radii, the search for the largest radius of several bounds."""
    for each in asked(p, box, part("interval", p, None))[::5]:
        work = Work(each.network, each.take([0]).batch(0.0), regions=5, memory=2**28, seconds=5.0)
        distance_upper.start(work)
        for name, method in DISTANCES.items():
            found = method(work)
            assert found is None or (found <= each.distances[:1] * (1 + 1e-12)).all(), (each.name, name)


def rescaled(each: Planted, factor: float) -> Network:
    """The same function with all hidden values `factor` times as large (ReLU is positively homogeneous)."""
    network = Network.from_description(each.network.describe()).double()
    network.load_state_dict(each.network.state_dict())
    weighted = [layer for layer in network.layers if isinstance(layer, Linear | Conv2d)]
    if len(network.blocks) > 1:
        weighted[0].weight.data *= factor
        weighted[-1].weight.data /= factor
        for layer in weighted[:-1]:
            layer.bias.data *= factor
    return network


@pytest.mark.parametrize("factor", [1e-12, 1e-8, 1e-4, 1e6, 1e12])
def test_the_scale_of_hidden_values_proves_nothing_false(factor: float, tmp_path: Path) -> None:
    """Solver tolerances are absolute: neurons of size 1e-4 or 1e12 once gave `robust` here."""
    count = 0
    for p, box in BALLS:
        for each in asked(p, box, 2)[::4]:
            scaled = replace(each, network=rescaled(each, factor))
            batch = scaled.batch(JUST_OUTSIDE)
            if not bool(confirm(scaled.network, batch.ball, scaled.labels, scaled.planted).success.all()):
                continue
            found = records(scaled, CASCADES["complete"], JUST_OUTSIDE, tmp_path)
            if math.isinf(p):
                for solver in SOLVED:
                    found += ExactVerifier(scaled.network, ExactSettings(attack=None, solver=solver))(batch)
            assert all(record.verdict != "robust" for record in found), each.name
            count += len(found)
    assert count >= 12


def test_bounds_that_are_no_numbers_prove_nothing() -> None:
    """A margin that is not a number leaves its target open, whatever the others say."""
    each = questions(math.inf, BOX)[0]
    broken = replace(each, network=rescaled(each, 1.0))
    broken.network.layers[-1].bias.data[(int(each.labels[0]) + 2) % broken.network.classes] = math.nan
    found = [*records(broken, CASCADES["bounds"], 0.1), *records(broken, CASCADES["complete"], 0.1)]
    found += ExactVerifier(broken.network, ExactSettings(attack=None))(broken.batch(0.1))
    assert {record.verdict for record in found} == {"unknown"}
