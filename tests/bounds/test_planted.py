"""Hidden counter-examples: nets in which a point of the ball is known to be misclassified, so nothing may be proved.

The last bias is set so that the class changes exactly at a point drawn inside ball and box: its margin is -GAP, far
below what sampling would find by chance and far above rounding. Deep in the ball, on its surface, in a corner of the
box: a bound that is tight but wrong by more than the room it has says `robust` somewhere here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from robustcli.attacks.verify import confirm
from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import Certifier
from robustcli.evaluation.certify import Settings as CertifySettings
from robustcli.evaluation.exact import ExactVerifier, Settings
from robustcli.mip.solver import SOLVERS
from robustcli.networks.network import Network, margin_rows, margins
from tests.nets import convolutional, dense, randomised

GAP = 1e-6
QUESTIONS = 40
"""Per norm, with and without the box: 240 in all."""
RADII = {1.0: 0.8, 2.0: 0.4, math.inf: 0.12}
SOLVED = [name for name, make in SOLVERS.items() if make().licence().usable]


def stacked(seed: int) -> Network:
    """Convolutions without a ReLU between them, an average pooling, odd strides."""
    layers = [
        {"type": "conv2d", "in": 1, "out": 2, "kernel": 3, "padding": 1},
        {"type": "conv2d", "in": 2, "out": 2, "kernel": 3, "padding": 1},
        {"type": "relu"},
        {"type": "avgpool2d", "kernel": 2, "stride": 1},
        {"type": "conv2d", "in": 2, "out": 3, "kernel": 5, "stride": 2, "padding": 2},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 12, "out": 3},
    ]
    return randomised({"input_shape": [1, 5, 5], "layers": layers}, seed)


def network(seed: int) -> Network:
    makers = (
        lambda: dense([3, 3], seed),
        lambda: dense([4, 6, 3], seed),
        lambda: dense([3, 5, 4, 3], seed),
        lambda: convolutional(seed, side=5, normalise=True),
        lambda: stacked(seed),
    )
    return makers[seed % len(makers)]()


def planted(p: float, box: tuple[float, float] | None, seed: int) -> tuple[Network, Batch, Tensor] | None:
    """A net, a point it classifies correctly, and an input of the ball that it does not, by GAP."""
    generator = torch.Generator().manual_seed(seed)
    net = network(seed)
    x = (torch.rand(1, *net.input_shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    inside = Ball.around(x, RADII[p] * (0.25 + seed % 4 / 4), p, box)
    candidates = inside.sample(60, generator)[0]
    logits = net(torch.cat([x, candidates]))
    gaps = logits.unsqueeze(2) - logits.unsqueeze(1)  # f_y - f_t at every point
    # The classes and the candidate where the margin falls the most: the bias then puts the change of class there.
    fall = (gaps[0] - gaps[1:]).flatten(1)
    worst = seed % len(fall)
    if seed % 2 or float(fall[worst].amax()) < 1e-3:
        worst = int(fall.amax(1).argmax())
    if float(fall[worst].amax()) < 1e-3:
        return None  # constant over the ball
    label, target = divmod(int(fall[worst].argmax()), net.classes)
    bias = net.layers[-1].bias
    for other in range(net.classes):  # the rest of the classes never matter
        bias.data[other] -= 0.0 if other in (label, target) else 1e3
    bias.data[target] += float(gaps[1 + worst, label, target]) + GAP
    labels = torch.tensor([label])
    batch = Batch(torch.tensor([seed]), x, labels, labels, margins(net(x), labels), inside)
    return net, batch, candidates[worst : worst + 1]


def rescaled(net: Network, factor: float) -> None:
    """The same function with all hidden values `factor` times as large (ReLU is positively homogeneous)."""
    chosen = [layer for layer in net.layers if hasattr(layer, "weight")]
    if len(net.blocks) > 1 and len(chosen) == len(net.blocks):
        chosen[0].weight.data *= factor
        chosen[-1].weight.data /= factor
        for layer in chosen[:-1]:
            layer.bias.data *= factor


def questions(p: float, boxed: bool) -> Iterator[tuple[Network, Batch, Tensor]]:
    """QUESTIONS nets whose clean point is right and whose planted point is wrong by the judge of all attacks."""
    found = 0
    for seed in range(10 * QUESTIONS):
        made = planted(p, (0.0, 1.0) if boxed else None, seed)
        if made is None or float(made[1].clean_margins[0]) <= 0:
            continue
        net, batch, point = made
        assert bool(confirm(net, batch.ball, batch.labels, point).success[0])
        yield net, batch, point
        found += 1
        if found == QUESTIONS:
            return
    raise AssertionError("too few questions")


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("p", list(RADII))
def test_no_bound_proves_what_is_false(p: float, boxed: bool) -> None:
    asked = 0
    for net, batch, point in questions(p, boxed):
        rows, _ = margin_rows(batch.labels, net.classes, torch.float64)
        true = float(margins(net(point), batch.labels))
        for bound in (interval, dual):
            assert float(bound(net, batch.ball, rows).margins.min()) <= true
        assert next(Certifier(net, CertifySettings())(batch)).verdict == "unknown"
        asked += 1
    assert asked == QUESTIONS


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("solver", SOLVED)
def test_no_solver_proves_what_is_false(solver: str, boxed: bool) -> None:
    settings = Settings(attack=None, solver=solver)
    verdicts = []
    for net, batch, point in questions(math.inf, boxed):
        record = ExactVerifier(net, settings)(batch)[0]
        assert record.verdict != "robust"
        assert (record.margin_lower or 0) <= float(margins(net(point), batch.labels)) + 1e-6
        verdicts.append(record.verdict)
    assert verdicts.count("vulnerable") >= 0.9 * QUESTIONS  # and nearly always it finds the input


@pytest.mark.parametrize("factor", [1e-12, 1e-8, 1e-4, 1e6, 1e12])
@pytest.mark.parametrize("solver", SOLVED)
def test_no_solver_is_fooled_by_the_scale_of_hidden_values(solver: str, factor: float) -> None:
    """Solver tolerances are absolute: neurons of size 1e-4 or 1e12 once gave `robust` here."""
    settings = Settings(attack=None, solver=solver)
    for net, batch, point in questions(math.inf, True):
        rescaled(net, factor)
        if bool(confirm(net, batch.ball, batch.labels, point).success[0]):
            assert ExactVerifier(net, settings)(batch)[0].verdict != "robust"


def test_bounds_that_are_no_numbers_prove_nothing() -> None:
    """A margin that is not a number leaves its target open, whatever the others say."""
    net, batch, _ = next(questions(math.inf, True))
    net.layers[-1].bias.data[(int(batch.labels[0]) + 1) % net.classes] = math.nan
    record = ExactVerifier(net, Settings(attack=None))(batch)[0]
    assert record.verdict == "unknown"
