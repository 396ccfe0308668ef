"""The triangle LP: golden values, between CROWN and the true minimum, and proofs that rest on no solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins, crown, unknown
from robustcli.bounds.dual import dual
from robustcli.bounds.relaxation import adaptive, parallel
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.errors import RobustError, SolverError, UsageError
from robustcli.mip import highs
from robustcli.mip import triangle as triangle_module
from robustcli.mip.highs import LinearPrograms
from robustcli.mip.triangle import tighten, triangle
from robustcli.networks.network import Network, margin_rows
from tests.mip.cases import point
from tests.nets import STACKS, convolutional, dense, golden_network
from tests.oracle import minimal_margin, weights

BOXES = [None, (0.0, 1.0)]
NETS = {
    "dense": dense([3, 5, 4, 3], 1),
    "two inputs": dense([2, 4, 4, 4, 3], 5),
    "convolutional": convolutional(1),
    "normalised": convolutional(3, normalise=True),
    "padding": STACKS["one convolution, 5x5"],
}


def balls(network: Network) -> list[Ball]:
    """linf and l1, boxed and not, around a point of the box's border and inside."""
    x = point(network, 4)
    x.view(-1)[0] = 0.0
    return [Ball.around(x, eps, p, box) for p, eps in ((math.inf, 0.1), (1.0, 0.5)) for box in BOXES]


def crown_alone(network: Network, ball: Ball, rows: Tensor) -> MarginBounds:
    """CROWN without the KW dual's bounds."""
    return crown(network, ball, rows, known=unknown(network, ball))


def inside(ball: Ball, points: Tensor) -> bool:
    """Whether all points [n, ...] lie in the one ball, up to rounding."""
    return bool(ball.take(torch.zeros(len(points), dtype=torch.long)).contains(points, 1e-12).all())


def asked(network: Network, ball: Ball) -> tuple[Tensor, list[Bounds]]:
    """Margin rows of the predicted class, and CROWN's hidden bounds."""
    rows, _ = margin_rows(network(ball.center).argmax(1), network.classes, torch.float64)
    return rows, crown(network, ball, rows).layers


@pytest.mark.parametrize(
    ("eps", "hidden", "margins"),
    [
        (0.1, crown_alone, [-0.208871, 1.187336]),
        (0.1, dual, [-0.203331, 1.199608]),
        (0.2, crown_alone, [-0.868267, 0.330686]),
        (0.2, dual, [-0.850046, 0.369342]),
    ],
)
def test_golden_margins(eps: float, hidden, margins: list[float]) -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, eps, math.inf, None)
    rows, _ = margin_rows(y, 3, torch.float64)
    found = triangle(network, ball, rows, hidden(network, ball, rows).layers)
    assert found.margins.tolist() == pytest.approx(margins, abs=1e-6)
    assert found.minimisers[0].tolist() == pytest.approx([0.65 - eps, 0.3 - eps])
    assert (found.solved, found.size.binaries) == (2, 0)


@pytest.mark.parametrize(
    ("eps", "lower", "upper", "margins"),
    [
        (0.1, [-0.35, -0.55], [0.275, 0.225], [-0.1945, 1.21285]),
        (0.2, [-0.4375, -0.91], [0.665, 0.625], [-0.828274, 0.410789]),
    ],
)
def test_golden_tightened_layers(eps: float, lower: list[float], upper: list[float], margins: list[float]) -> None:
    network, x, y = golden_network()
    ball = Ball.around(x, eps, math.inf, None)
    rows, _ = margin_rows(y, 3, torch.float64)
    layers = tighten(network, ball, crown_alone(network, ball, rows).layers)
    assert layers[1].lower[0, :2].tolist() == pytest.approx(lower, abs=1e-6)
    assert layers[1].upper[0, :2].tolist() == pytest.approx(upper, abs=1e-6)
    assert triangle(network, ball, rows, layers).margins.tolist() == pytest.approx(margins, abs=1e-6)


def textbook(network: Network, ball: Ball, row: Tensor, layers: list[Bounds]) -> float:
    """The triangle LP with a variable for every pixel, z and y, by another solver."""
    maps, center = weights(network), ball.center.flatten().numpy()
    d, eps = len(center), float(ball.eps)
    down, up = (side.flatten().numpy() for side in ball.room())
    sizes = [matrix.shape[0] for matrix, _ in maps[:-1]]
    count = 2 * d + 2 * sum(sizes)
    bounds = [(0.0, v) for v in up] + [(0.0, v) for v in down] + [(None, None)] * (2 * sum(sizes))
    equal, equals, less, limits = [], [], [], []
    if ball.p == 1:
        less.append(np.concatenate([np.ones(2 * d), np.zeros(count - 2 * d)]))
        limits.append(eps)
    below, shift = np.hstack([np.eye(d), -np.eye(d), np.zeros((d, count - 2 * d))]), center
    at = 2 * d
    for (matrix, bias), layer in zip(maps[:-1], layers, strict=True):
        lower, upper = layer.lower.flatten().numpy(), layer.upper.flatten().numpy()
        z, y = (np.eye(count)[at + k * len(bias) : at + (k + 1) * len(bias)] for k in (0, 1))
        equal.extend(z - matrix @ below)
        equals.extend(matrix @ shift + bias)
        for j in range(len(bias)):
            if lower[j] >= 0 or upper[j] <= 0:
                equal.append(y[j] - z[j] * (lower[j] >= 0))
                equals.append(0.0)
            else:
                slope = upper[j] / (upper[j] - lower[j])
                less.extend([-y[j], z[j] - y[j], y[j] - slope * z[j]])
                limits.extend([0.0, 0.0, -slope * lower[j]])
        below, shift, at = y, np.zeros(len(bias)), at + 2 * len(bias)
    matrix, bias = maps[-1]
    limited = {"A_ub": np.array(less), "b_ub": np.array(limits)} if less else {}
    answer = linprog(
        row.numpy() @ matrix @ below, A_eq=np.array(equal), b_eq=np.array(equals), bounds=bounds, **limited
    )
    assert answer.status == 0
    return float(answer.fun + row.numpy() @ (matrix @ shift + bias if len(maps) == 1 else bias))


@pytest.mark.parametrize("name", NETS)
def test_equals_the_program_with_all_variables(name: str) -> None:
    network = NETS[name]
    for ball in balls(network):
        rows, layers = asked(network, ball)
        found = triangle(network, ball, rows, layers)
        expected = [textbook(network, ball, row, layers) for row in rows[0]]
        assert found.margins.tolist() == pytest.approx(expected, abs=1e-6)
        assert inside(ball, found.minimisers)


@pytest.mark.parametrize("name", NETS)
def test_above_every_slope_rule_and_below_the_samples(name: str) -> None:
    network = NETS[name]
    for ball in balls(network):
        rows, layers = asked(network, ball)
        found = triangle(network, ball, rows, layers).margins
        for rule in (adaptive, parallel):
            assert bool((found >= backward_margins(network, ball, rows, layers, rule)[0] - 1e-7).all())
        reached = network(ball.sample(300, torch.Generator().manual_seed(0))[0]) @ rows[0].T
        assert bool((found <= reached.amin(0)).all())


@pytest.mark.parametrize("name", ["dense", "two inputs"])
def test_below_the_true_minimum(name: str) -> None:
    network = NETS[name]
    for ball in balls(network):
        rows, layers = asked(network, ball)
        label = int(network(ball.center).argmax())
        truth = minimal_margin(network, ball.center, label, float(ball.eps), ball.p, ball.box)
        assert float(triangle(network, ball, rows, layers).margins.min()) <= truth + 1e-9


@pytest.mark.parametrize("name", ["two inputs", "convolutional"])
def test_tightened_layers_hold_and_help(name: str) -> None:
    network = NETS[name]
    for ball in balls(network):
        rows, layers = asked(network, ball)
        tight = tighten(network, ball, layers)
        values = network.pre_activations(ball.sample(300, torch.Generator().manual_seed(1))[0])
        for before, after, value in zip(layers, tight, values, strict=False):
            assert bool((after.lower >= before.lower).all() and (after.upper <= before.upper).all())
            assert bool((after.lower <= value).all() and (value <= after.upper).all())
        better = triangle(network, ball, rows, tight).margins
        assert bool((better >= triangle(network, ball, rows, layers).margins - 1e-7).all())
    untouched = tighten(network, ball, layers, seconds=0.0)
    assert all(torch.equal(a.lower, b.lower) for a, b in zip(untouched, layers, strict=True))


def test_only_the_rows_asked_for_in_any_order() -> None:
    network = NETS["convolutional"]
    ball = balls(network)[1]
    rows, layers = asked(network, ball)
    everything = triangle(network, ball, rows, layers)
    some = triangle(network, ball, rows, layers, targets=[2, 0])
    assert some.solved == 2
    assert some.margins[[2, 0]].tolist() == pytest.approx(everything.margins[[2, 0]].tolist(), abs=1e-7)
    assert some.margins[1] == -math.inf
    assert torch.equal(some.minimisers[1], ball.center[0])


def test_without_time_nothing_is_proved() -> None:
    network = NETS["dense"]
    ball = balls(network)[0]
    rows, layers = asked(network, ball)
    found = triangle(network, ball, rows, layers, seconds=0.0)
    assert found.solved == 0
    assert bool(found.margins.isneginf().all())


@pytest.mark.parametrize("seed", range(4))
def test_a_solver_that_errs_proves_nothing_wrong(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever multipliers come back, the bound stays below every margin of the ball."""
    generator = np.random.default_rng(seed)

    def nonsense(self: LinearPrograms, cost: np.ndarray, seconds: float):
        rows, columns = self.solver.getNumRow(), self.solver.getNumCol()
        return generator.normal(size=columns) * 9, generator.normal(size=rows) * 10.0 ** (seed - 2)

    monkeypatch.setattr(LinearPrograms, "minimise", nonsense)
    for network in NETS.values():
        for ball in balls(network):
            rows, layers = asked(network, ball)
            found = triangle(network, ball, rows, layers)
            reached = network(ball.sample(100, torch.Generator().manual_seed(seed))[0]) @ rows[0].T
            assert bool((found.margins <= reached.amin(0)).all())
            assert inside(ball, found.minimisers)


def test_multipliers_that_are_no_numbers_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LinearPrograms, cost: np.ndarray, seconds: float):
        return np.zeros(self.solver.getNumCol()), np.full(self.solver.getNumRow(), np.nan)

    monkeypatch.setattr(LinearPrograms, "minimise", broken)
    network = NETS["dense"]
    ball = balls(network)[0]
    rows, layers = asked(network, ball)
    assert sum(int(layer.unstable.sum()) for layer in layers) > 0
    assert bool(triangle(network, ball, rows, layers).margins.isneginf().all())


def test_an_infeasible_program_has_no_answer() -> None:
    network = NETS["dense"]
    ball = balls(network)[0]
    rows, layers = asked(network, ball)
    program = triangle_module._Program(triangle_module.encode(network, ball, layers, rows[0]), ball)
    empty = program.problem
    programs = LinearPrograms(type(empty)(**{**vars(empty), "row_upper": empty.row_upper - 1e3}))
    assert programs.minimise(empty.cost, 10.0) is None


def test_an_l2_ball_is_refused() -> None:
    network = NETS["dense"]
    ball = Ball.around(point(network, 4), 0.2, 2.0, None)
    rows, layers = asked(network, ball)
    with pytest.raises(UsageError, match="l2 ball"):
        triangle(network, ball, rows, layers)


def test_bounds_that_contradict_each_other_are_reported() -> None:
    network = NETS["dense"]
    ball = balls(network)[0]
    rows, layers = asked(network, ball)
    with pytest.raises(RobustError, match="below its lower bound"):
        triangle(network, ball, rows, [Bounds(layers[0].upper + 1, layers[0].lower), *layers[1:]])


def test_a_missing_solver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "_licence", lambda: highs.Licence("missing", "not installed"))
    network = NETS["dense"]
    ball = balls(network)[0]
    rows, layers = asked(network, ball)
    with pytest.raises(SolverError, match="not installed"):
        triangle(network, ball, rows, layers)
