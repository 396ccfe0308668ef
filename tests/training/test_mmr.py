"""MMR: golden values, schedules, the choice of units, gradients, MMR+AT."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from robustcli.networks.network import Network
from robustcli.recipes.methods import Conventions, MaximumMargin, NearestUnits
from robustcli.training import mmr
from robustcli.training.hinges import hinge, nearest_count, nearest_units, tie_offsets, warmup
from robustcli.training.objective import Moment
from tests.nets import convolutional, dense, golden_network

GOLDEN = {
    "l1": (0.5, 0.890580, 0.466667, 0.311111),
    "l2": (0.4, 0.883837, 0.342404, 0.228269),
    "linf": (0.3, 0.884409, 0.238095, 0.158730),
}


def moment(epoch: int = 100, epochs: int = 100) -> Moment:
    return Moment(epoch, epochs, 0, torch.Generator().manual_seed(0))


def settings(norm: str = "linf", **more: object) -> MaximumMargin:
    return MaximumMargin.model_validate({"name": "mmr", "norm": norm, "lmbd": 2, "gamma": 0.3, **more})


def objective(network: Network, chosen: MaximumMargin, box: tuple[float, float] | None = None) -> mmr.MaximumMargin:
    return mmr.MaximumMargin(chosen, tie_offsets(network, chosen.conventions, 0), {"linf": 0.1}, box)


@pytest.mark.parametrize("norm", GOLDEN)
def test_golden_values(norm: str) -> None:
    network, x, label = golden_network()
    gamma, boundary, by_others, by_classes = GOLDEN[norm]
    for divisor, decision in (("others", by_others), ("classes", by_classes)):
        nearest = NearestUnits(start=3 / 7, end=3 / 7)
        conventions = Conventions(tie_noise=0, decision_divisor=divisor)
        chosen = settings(norm, gamma=gamma, nearest=nearest, conventions=conventions)
        parts = objective(network, chosen)(network, x, label, moment()).parts
        assert float(parts["boundary"]) == pytest.approx(boundary, abs=1e-6)
        assert float(parts["decision"]) == pytest.approx(decision, abs=1e-6)


def test_without_boundaries_the_decision_term_alone() -> None:
    """MMR-dD, the ablation of 000."""
    network, x, label = golden_network()
    alone = objective(network, settings(boundary=False))(network, x, label, moment())
    both = objective(network, settings())(network, x, label, moment())
    assert float(alone.parts["boundary"]) == 0
    assert torch.equal(alone.parts["decision"], both.parts["decision"])
    assert float(alone.total) < float(both.total)


def test_the_loss_is_cross_entropy_plus_lambda_times_the_regulariser() -> None:
    network, x, label = golden_network()
    exact = Conventions(tie_noise=0)
    chosen = settings("linf", nearest=NearestUnits(start=3 / 7, end=3 / 7), conventions=exact)
    loss = objective(network, chosen)(network, x, label, moment(epoch=5))
    entropy = float(F.cross_entropy(network(x), label))
    assert float(loss.total) == pytest.approx(entropy + 2 * 0.5 * (0.884409 + 0.158730), abs=1e-5)
    assert float(loss.parts["boundary"]) == pytest.approx(0.884409, abs=1e-6)
    other = settings("linf", nearest=chosen.nearest, conventions=Conventions(tie_noise=0, decision_divisor="others"))
    assert float(objective(network, other)(network, x, label, moment()).parts["decision"]) == pytest.approx(
        0.238095, abs=1e-6
    )


@pytest.mark.parametrize(
    ("units", "nearest", "expected"),
    [
        (1024, NearestUnits(), [101, 93, 61, 20]),
        (4804, NearestUnits(), [476, 441, 288, 96]),
        (6244, NearestUnits(), [619, 574, 374, 124]),
        (4804, NearestUnits(start=0.2, end=0.05), [952, 888, 600, 240]),
        (6244, NearestUnits(start=0.2, end=0.05), [1238, 1154, 780, 312]),
    ],
)
def test_number_of_nearest_units(units: int, nearest: NearestUnits, expected: list[int]) -> None:
    assert [nearest_count(units, nearest, moment(epoch)) for epoch in (1, 10, 50, 100)] == expected


def test_warmup() -> None:
    assert [warmup(10, moment(epoch)) for epoch in (1, 5, 10, 11)] == [0.1, 0.5, 1.0, 1.0]
    assert warmup(0, moment(1)) == 1


def test_choice_of_units() -> None:
    distances = torch.tensor([[0.3, 0.1, math.inf, 0.2], [0.0, 0.0, 0.0, math.inf]])
    assert nearest_units(distances, 2, torch.zeros(4))[0].tolist() == [False, True, False, True]
    offsets = torch.tensor([3e-6, -2e-6, 1e-6, 0.0])
    assert nearest_units(distances, 1, offsets)[1].tolist() == [False, True, False, False]
    assert nearest_units(distances, 9, offsets).all()
    assert hinge(torch.tensor([math.inf, 0.0, -1.0]), 2.0).tolist() == [0, 1, 1.5]


def test_tie_noise_comes_from_the_seed() -> None:
    network = dense([3, 8, 2])
    assert torch.equal(tie_offsets(network, Conventions(), 1), tie_offsets(network, Conventions(), 1))
    assert not torch.equal(tie_offsets(network, Conventions(), 1), tie_offsets(network, Conventions(), 2))
    assert tie_offsets(network, Conventions(), 1).abs().max() <= 5e-6
    assert (tie_offsets(network, Conventions(tie_noise=0), 1) == 0).all()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_gradient_by_finite_differences(norm: str) -> None:
    network = convolutional(0).requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(4, *network.input_shape, generator=generator, dtype=torch.float64)
    labels = torch.arange(4)
    gamma = {"l1": 3.0, "l2": 1.0, "linf": 0.3}[norm]
    made = objective(network, settings(norm, gamma=gamma, nearest=NearestUnits(start=0.3, end=0.3)))
    weights = list(network.parameters())
    gradients = torch.autograd.grad(made(network, points, labels, moment()).total, weights)
    step = 1e-7
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        values = []
        for side in (step, -step):
            with torch.no_grad():
                weight += side * direction
                values.append(float(made(network, points, labels, moment()).total))
                weight -= side * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_few_steps_push_the_boundaries_away(norm: str) -> None:
    network = dense([6, 30, 20, 3], 2).float().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.rand(32, 6, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    made = objective(network, settings(norm, gamma=0.5))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = made(network, points, labels, moment())
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_dead_networks_give_finite_losses_and_gradients() -> None:
    network = convolutional(1).requires_grad_(True)
    with torch.no_grad():
        network.layers[0].bias -= 100
    points = torch.rand(2, *network.input_shape, dtype=torch.float64)
    loss = objective(network, settings("l2"))(network, points, torch.tensor([0, 1]), moment())
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(w.grad is None or w.grad.isfinite().all() for w in network.parameters())


def test_adversarial_half_enters_both_terms() -> None:
    network = dense([6, 20, 3], 0).float().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.rand(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)
    clean = objective(network, settings("linf"))(network, points, labels, moment())
    mixed_settings = settings("linf", adversarial={"name": "at", "norms": ["linf"], "steps": 5})
    made = objective(network, mixed_settings, (0.0, 1.0))
    mixed = made(network, points, labels, moment())
    assert torch.equal(mixed.logits[4:], clean.logits[4:])
    assert not torch.equal(mixed.logits[:4], clean.logits[:4])
    assert mixed.parts["ce"] > clean.parts["ce"]
    again = made(network, points, labels, moment())
    assert torch.equal(again.total, mixed.total)


def test_without_weight_nothing_is_computed() -> None:
    network, x, label = golden_network()
    loss = objective(network, settings("l1", lmbd=0))(network, x, label, moment())
    assert float(loss.total) == pytest.approx(float(F.cross_entropy(network(x), label)))
    assert set(loss.parts) == {"ce"}
