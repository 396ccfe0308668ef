"""The encoding is the network: same values on the ball, and every point of the ball feasible in both formulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.interval import interval
from robustcli.bounds.types import Bounds
from robustcli.errors import RobustError, UsageError
from robustcli.mip.encoding import Encoding, encode
from robustcli.mip.formulations import FORMULATIONS, choose, size
from robustcli.mip.problem import Size
from robustcli.mip.solver import Licence
from robustcli.mip.verify import verify
from robustcli.networks.network import margin_rows
from tests.mip.cases import Case, case, golden, image, point, small
from tests.nets import convolutional, dense

CASES = [
    lambda: golden(0.1),
    lambda: golden(0.2),
    *(lambda s=s: small(s) for s in range(6)),
    lambda: image(0),
    lambda: image(1),
    lambda: image(2, normalise=False),
    lambda: image(3, eps=0.3),
]


def lifted(encoding: Encoding, formulation: str, x: np.ndarray) -> np.ndarray:
    """The variables that belong to an input: binaries by the activation pattern, slacks by the pre-activations."""
    z, v = encoding.neurons(x)
    on = (z > 0).astype(float)
    return np.concatenate([v, np.maximum(-z, 0), on] if formulation == "slack" else [v, on])


def inputs(found: Case, count: int = 60) -> np.ndarray:
    samples = found.ball.sample(count, torch.Generator().manual_seed(0))[0]
    low, high = found.ball.bounding_box()
    return torch.cat([samples, found.ball.center, low, high]).flatten(1).numpy()


@pytest.mark.parametrize("make", CASES)
def test_margins_equal_the_forward_pass(make) -> None:
    found = make()
    points = inputs(found)
    shaped = torch.tensor(points).view(-1, *found.network.input_shape)
    truth = (found.network(shaped) @ found.rows.T).numpy()
    ours = np.stack([found.encoding.margins_at(x) for x in points])
    np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", CASES)
def test_pre_activations_equal_the_forward_pass(make) -> None:
    found = make()
    points = inputs(found, 20)
    shaped = torch.tensor(points).view(-1, *found.network.input_shape)
    truth = [layer.flatten(1).numpy() for layer in found.network.pre_activations(shaped)]
    for row, x in enumerate(points):
        z, _ = found.encoding.neurons(x)
        for value, layer, unit in zip(z, found.encoding.layers, found.encoding.units, strict=True):
            assert abs(value - truth[layer][row, unit]) < 1e-9


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("make", CASES)
def test_every_point_of_the_ball_is_feasible(make, formulation: str) -> None:
    found = make()
    problem = found.problem(formulation, 0)
    for x in inputs(found):
        v = lifted(found.encoding, formulation, x)
        assert problem.violation(v) < 1e-9
        assert problem.value(v) == pytest.approx(found.encoding.margins_at(x)[0], abs=1e-9)


def test_a_pixel_without_room_is_a_constant() -> None:
    network = dense([3, 4, 2], 1)
    x = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    found = case(network, x, 0.1, (0.0, 1.0))
    assert found.encoding.pixels.tolist() == [0, 1, 2]
    stuck = encode(network, Ball(x, torch.zeros(1, dtype=torch.float64), math.inf, None), found.layers, found.rows)
    assert stuck.pixels.tolist() == []
    truth = (network(x) @ found.rows.T)[0].numpy()
    np.testing.assert_allclose(stuck.margins_at(x[0].numpy()), truth, atol=1e-12)


def test_neurons_and_pixels_without_influence_are_left_out() -> None:
    network = dense([3, 6, 5, 3], 4)
    network.layers[0].weight.data[:, 1] = 0  # nobody reads the middle input
    network.layers[4].weight.data[:, 2] = 0  # nobody reads the third unit of the second layer
    found = case(network, point(network, 4), 0.4, (0.0, 1.0))
    assert 1 not in found.encoding.pixels
    assert not any((found.encoding.layers == 1) & (found.encoding.units == 2))
    x = inputs(found, 5)[0]
    truth = (network(torch.tensor(x)[None]) @ found.rows.T)[0].numpy()
    np.testing.assert_allclose(found.encoding.margins_at(x), truth, atol=1e-9)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_size_without_building_equals_the_model(name: str) -> None:
    found = image(1)
    model = FORMULATIONS[name][0](found.encoding).size
    guess = size(found.encoding, name)
    assert (model.variables, model.rows, model.binaries) == (guess.variables, guess.rows, guess.binaries)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image(3, eps=0.3)
    monkeypatch.setattr("robustcli.mip.encoding.ROW_BUDGET", 1)
    pieces = encode(whole.network, whole.ball, whole.layers, whole.rows)
    assert abs(whole.encoding.forms - pieces.forms).max() < 1e-14
    assert abs(whole.encoding.margins - pieces.margins).max() < 1e-14


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_forms_hold_over_other_balls(p: float) -> None:
    network = convolutional(3)
    x = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ball = Ball.around(x, 0.5, p, (0.0, 1.0))
    rows, _ = margin_rows(network(x).argmax(1), network.classes, torch.float64)
    found = encode(network, ball, interval(network, ball, rows).layers, rows[0])
    for z in ball.sample(20, torch.Generator().manual_seed(2))[0]:
        truth = rows[0] @ network(z.unsqueeze(0))[0]
        assert found.margins_at(z.flatten().numpy()) == pytest.approx(truth.numpy(), abs=1e-9)
        assert (
            (found.pixel_lower <= z.flatten().numpy()[found.pixels])
            & (z.flatten().numpy()[found.pixels] <= found.pixel_upper)
        ).all()


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_solvers_know_linf_only(p: float) -> None:
    found = small(0)
    with pytest.raises(UsageError, match=f"not l{p:g}"):
        verify(found.network, Ball.around(found.ball.center, 0.1, p, None), found.label, found.layers, [0], [0.0], [])


def test_contradicting_bounds_are_an_error() -> None:
    found = small(0)
    wrong = [Bounds(found.layers[0].upper + 1, found.layers[0].lower), *found.layers[1:]]
    with pytest.raises(RobustError, match="upper bound below its lower"):
        encode(found.network, found.ball, wrong, found.rows)


def test_wrong_bounds_are_caught_by_the_forward_pass() -> None:
    """A seeded fault: all neurons declared inactive. The encoding then is another function, and says so."""
    found = small(0)
    wrong = [Bounds(-torch.ones_like(layer.lower), -torch.ones_like(layer.upper)) for layer in found.layers]
    with pytest.raises(RobustError, match="differs from the forward pass"):
        encode(found.network, found.ball, wrong, found.rows)


class _Fake:
    def __init__(self, variables: int | None) -> None:
        self.name = f"fake{variables}"
        self.limits = Licence("size-limited" if variables else "open", "", variables, variables)

    def licence(self) -> Licence:
        return self.limits


def test_the_smaller_formulation_before_the_next_solver() -> None:
    found = small(0, eps=0.4, unstable=5)
    pixels, n = len(found.encoding.pixels), len(found.encoding.units)
    free = _Fake(None)

    def chosen(limit: int) -> tuple[str, str]:
        solver, name = choose(found.encoding, [_Fake(limit), free])
        return solver.name, name

    assert chosen(pixels + 3 * n) == (f"fake{pixels + 3 * n}", "slack")
    assert chosen(pixels + 3 * n - 1) == (f"fake{pixels + 3 * n - 1}", "sub")
    assert chosen(2) == ("fakeNone", "slack")
    assert choose(found.encoding, [free], "sub")[1] == "sub"


def test_licence_counts_rows_and_variables() -> None:
    small_licence = Licence("size-limited", "", 10, 5)
    assert small_licence.allows(Size(10, 5, 0, 0))
    assert not small_licence.allows(Size(11, 5, 0, 0))
    assert not small_licence.allows(Size(10, 6, 0, 0))
    assert not Licence("expired", "").allows(Size(1, 1, 0, 0))


def test_a_network_without_hidden_layers() -> None:
    flat = dense([4, 3], 0)
    found = case(flat, point(flat, 0), 0.1, (0.0, 1.0))
    assert found.encoding.unstable == ()
    problem = found.problem("slack", 1)
    lowest = problem.dual_bound(np.zeros(0))
    assert lowest == pytest.approx(found.dual_margins[1], abs=1e-9)
