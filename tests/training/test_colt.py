"""COLT: bounds and attacks of its training, the loss and its gradients."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.latent import Region, above
from robustcli.networks.network import Network, margin_rows
from robustcli.recipes.methods import LatentAttack
from robustcli.recipes.model import Recipe
from robustcli.training.colt.attack import latent_points
from robustcli.training.colt.bounding import estimated, exact
from robustcli.training.colt.objective import instability, make
from robustcli.training.objective import Loss, Moment
from robustcli.training.randomness import generator
from robustcli.training.stages import Stages
from tests.bounds.test_latent import BOX, NETS, around, spread
from tests.nets import dense, golden_network

PROJECTED, MANY = (partial(estimated, count=count) for count in (50, 10_000))


def test_cauchy_medians_have_the_mean_and_the_spread_of_theory() -> None:
    """k = 50 in float32: mean 0.9934, standard deviation 0.22, below the norm in 55.7 % of the draws.

    Units that are always active add no error terms, so that the input is the only source that is estimated.
    """
    network = dense([60, 5, 4, 3, 2], 5).float()
    network.layers[0].bias.data += 1e3
    ball = Ball.around(torch.rand(3000, 60, generator=generator(6)), 0.1, math.inf, BOX)
    _, second = PROJECTED(network, ball, 2, generator(1))
    known = exact(network, ball, 1, None)
    every = torch.eye(4).expand(ball.size, -1, -1)
    _, reach = spread(Region.of(network, ball, known), network, every)
    ratio = (second.upper - second.lower) / 2 / reach
    assert float(ratio.mean()) == pytest.approx(0.9934, abs=0.006)
    assert float(ratio.std()) == pytest.approx(0.22, abs=0.01)
    assert float((ratio < 1).float().mean()) == pytest.approx(0.557, abs=0.015)


@pytest.mark.parametrize("name", NETS)
def test_bounds_of_few_error_terms_are_not_estimated(name: str) -> None:
    network = NETS[name]
    ball, _ = around(network, 0.05)
    for depth in range(1, len(network.blocks) - 1):
        counted, proved = (bounding(network, ball, depth, None) for bounding in (MANY, exact))
        for found, known in zip(counted, proved, strict=True):
            open_units = known.unstable
            assert torch.allclose(found.lower[open_units], known.lower[open_units], atol=1e-9)
            assert torch.allclose(found.upper[open_units], known.upper[open_units], atol=1e-9)
            assert torch.equal(found.unstable, open_units)


def test_estimates_scatter_around_the_exact_bounds() -> None:
    network = NETS["four convolutions"]
    ball, _ = around(network, 0.1, count=40)
    (_, second), (_, known) = (bounding(network, ball, 2, generator(1)) for bounding in (PROJECTED, exact))
    widths = (second.upper - second.lower) / (known.upper - known.lower)
    open_units = known.unstable
    assert 0.95 < float(widths[open_units].mean()) < 1.05
    assert 0.02 < float(widths[open_units].std()) < 0.3


@pytest.mark.parametrize("eps", [0.1, 0.2])
def test_the_latent_attack_reaches_the_worst_point_where_the_rest_is_linear(eps: float) -> None:
    """Two classes behind the last ReLU: the loss is monotone in one linear functional, whose minimum KW proves."""
    network = dense([3, 6, 5, 2], 4)
    ball, labels = around(network, eps)
    rows, _ = margin_rows(labels, 2, torch.float64)
    whole = dual(network, ball, rows, outward=False)
    region = Region.of(network, ball, whole.layers)
    found = latent_points(network, region, labels, LatentAttack(steps=9, step_size=0.25), generator(3))
    logits = above(network, 2, found)
    reached = (rows @ logits.unsqueeze(2)).squeeze(2)
    assert torch.allclose(reached, whole.margins, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_the_attack_stays_in_the_zonotope_and_rises(name: str) -> None:
    network = NETS[name]
    ball, labels = around(network, 0.1)
    hidden = len(network.blocks) - 1
    for depth in range(hidden):
        region = Region.of(network, ball, exact(network, ball, depth, None) if depth else [])
        start, end = (
            latent_points(network, region, labels, LatentAttack(steps=steps, step_size=0.1), generator(5))
            for steps in (1, 40)
        )
        units = torch.eye(end[0].numel(), dtype=torch.float64)
        errors = [torch.zeros_like(error).requires_grad_() for error in region.errors()]
        middle = region.point(errors)
        for unit in range(0, len(units), 7):
            gradients = torch.autograd.grad((middle.flatten(1) @ units[unit]).sum(), errors, retain_graph=True)
            reach = sum(gradient.abs().flatten(1).sum(1) for gradient in gradients)
            assert bool(((end - middle).flatten(1)[:, unit].abs() <= reach + 1e-9).all())
        before, after = (F.cross_entropy(above(network, depth, point), labels) for point in (start, end))
        assert after > before
        # Deeper regions are larger, whatever the attack finds: no true point of the ball is worse than the best bound.
        rows, _ = margin_rows(labels, network.classes, torch.float64)
        margins = (rows @ above(network, depth, end).unsqueeze(2)).squeeze(2)
        assert bool((margins >= dual(network, ball, rows, outward=False).margins - 1e-9).all())


def recipe(stages: int = 3, **method: Any) -> Recipe:
    """Twelve epochs on the digits."""
    chosen = {"name": "colt", "stages": stages, "mix_epochs": 2, "attack": {"steps": 3, "step_size": 0.4}} | method
    return Recipe(
        name="tiny-colt",
        summary="a test",
        origin="own",
        dataset="digits",
        architecture="3x12",
        method=chosen,
        eps={"linf": 0.1},
        norm="linf",
        training={"epochs": 12, "optimiser": {"name": "sgd", "lr": 0.1}, "schedule": {"name": "every", "every": 1}},
    )


def moment(epoch: int, step: int = 0) -> Moment:
    return Moment(epoch, 12, step, generator(0, epoch, step), 4)


def loss(network: Network, chosen: Recipe, at: Moment, points: Tensor, labels: Tensor) -> Loss:
    assert chosen.method.name == "colt"
    return make(chosen.method, chosen, network, 0)(network, points, labels, at)


@pytest.mark.parametrize(
    ("stages", "factor", "growth", "eps", "radii"),
    [
        (4, 1.05, 1.1, 2 / 255, [2.7951 / 255, 2.541 / 255, 2.31 / 255, 2.1 / 255]),
        (3, 1.05, 1.2, 8 / 255, [12.096 / 255, 10.08 / 255, 8.4 / 255]),
        (3, 1.0, 1.2, 0.01, [0.0144, 0.012, 0.01]),
        (3, 1.0, 1.1, 0.3, [0.363, 0.33, 0.3]),
        (3, 1.5, 1.0, 0.1, [0.15, 0.15, 0.15]),
    ],
)
def test_radii_of_the_stages_are_those_of_002(
    stages: int, factor: float, growth: float, eps: float, radii: list[float]
) -> None:
    chosen = recipe(stages, eps_factor=factor, eps_growth=growth).model_copy(update={"eps": {"linf": eps}})
    made = make(chosen.method, chosen, dense([2, 2], 0), 0)
    assert [made.radius(stage) for stage in range(stages)] == pytest.approx(radii)


def test_shares_and_rates_begin_anew_in_every_stage() -> None:
    chosen = recipe(rate_decay=0.5, mix_epochs=2)
    made, stages = make(chosen.method, chosen, dense([2, 2], 0), 0), Stages.of(chosen)
    assert [stages.at(epoch) for epoch in range(1, 14)] == [0] * 4 + [1] * 4 + [2] * 5
    assert [epoch for epoch in range(1, 14) if stages.begins(epoch)] == [5, 9]
    assert [made.share(moment(epoch)) for epoch in range(1, 13)] == [0, 0.5, 1, 1] * 3
    assert made.share(moment(6, 2)) == 0.75
    halved = [0.1, 0.05, 0.025, 0.0125]
    expected = [decay * rate for decay, rate in itertools.product((1, 0.5, 0.25), halved)]
    assert [stages.rate(epoch) for epoch in range(1, 13)] == pytest.approx(expected)


def test_the_area_of_the_golden_network() -> None:
    network, x, _ = golden_network()
    ball = Ball.around(x, 0.1, math.inf, None)
    layers = dual(network, ball, margin_rows(torch.tensor([1]), 3, torch.float64)[0], outward=False).layers
    assert instability(layers[1]).item() == pytest.approx(0.434375 * 0.275 + 0.64375 * 0.28125, abs=1e-9)


@pytest.mark.parametrize("bounds", ["projected", "exact"])
@pytest.mark.parametrize("epoch", [2, 4, 6, 8, 10, 12])
def test_gradients_are_those_of_finite_differences(bounds: str, epoch: int) -> None:
    """Behind the frozen layers; those have none."""
    network = dense([4, 7, 6, 5, 3], 2)
    chosen, at = recipe(bounds=bounds, projections=3, stability=0.1, l1=1e-3), moment(epoch)
    trained = list(Stages.of(chosen).freeze(network, epoch))
    assert len(trained) == 8 - 2 * Stages.of(chosen).at(epoch)
    points, labels = torch.rand(5, 4, dtype=torch.float64, generator=generator(1)), torch.tensor([0, 1, 2, 0, 1])

    def value() -> float:
        return loss(network, chosen, moment(epoch), points, labels).total.item()

    network.zero_grad()
    loss(network, chosen, at, points, labels).total.backward()
    assert all((weight.grad is None) != any(weight is item for item in trained) for weight in network.parameters())
    step = 1e-6
    for weight in trained:
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for entry in range(0, flat.numel(), 3):
            before = flat[entry].item()
            flat[entry] = before + step
            higher = value()
            flat[entry] = before - step
            lower = value()
            flat[entry] = before
            assert (higher - lower) / (2 * step) == pytest.approx(gradient[entry].item(), abs=1e-5)


def test_one_stage_is_adversarial_training() -> None:
    """From the first step of a stage on the loss moves from the clean points to attacked ones; nothing is frozen."""
    network = dense([4, 7, 3], 2)
    points, labels = torch.rand(5, 4, dtype=torch.float64, generator=generator(1)), torch.tensor([0, 1, 2, 0, 1])
    chosen = recipe(1, l1=0.0, attack={"steps": 5, "step_size": 2.0})
    assert len(list(Stages.of(chosen).freeze(network, 12))) == 4
    begun, ended = (loss(network, chosen, moment(epoch), points, labels) for epoch in (1, 12))
    assert begun.total.item() == pytest.approx(F.cross_entropy(network(points), labels).item())
    assert set(ended.parts) == {"stage", "eps", "kappa", "ce"}
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    low, high = Ball.around(points, 0.105, math.inf, BOX).bounding_box()
    ends = (low + high).unsqueeze(1) / 2 + corners * (high - low).unsqueeze(1) / 2
    losses = [F.cross_entropy(network(ends[:, corner]), labels, reduction="none") for corner in range(16)]
    assert begun.total.item() < ended.total.item() <= torch.stack(losses).amax(0).mean().item() + 0.05


def test_the_loss_is_the_sum_of_its_parts() -> None:
    network = dense([4, 7, 6, 5, 3], 2)
    points, labels = torch.rand(5, 4, dtype=torch.float64, generator=generator(1)), torch.tensor([0, 1, 2, 0, 1])
    chosen = recipe(stability=0.1, stability_growth=1.5, l1=1e-3)
    weights = sum(block.layers[0].weight.abs().sum().item() for block in network.blocks)
    for epoch in range(1, 13):
        found = loss(network, chosen, moment(epoch, 1), points, labels)
        parts = {name: float(value) for name, value in found.parts.items()}
        stage, kappa = int(parts["stage"]) - 1, parts["kappa"]
        assert ("before" in parts) == (kappa < 1)
        assert ("area" in parts) == (stage < 2)
        expected = kappa * (parts["ce"] + 0.1 * 1.5**stage * parts.get("area", 0.0)) + 1e-3 * weights
        expected += (1 - kappa) * parts.get("before", 0.0)
        assert found.total.item() == pytest.approx(expected, abs=1e-12)
        if epoch == 1:
            assert parts["before"] == pytest.approx(F.cross_entropy(network(points), labels).item())
