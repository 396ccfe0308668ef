"""Attacked batches: inside ball and box, worse than clean points, the union no better for the network than any norm."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.errors import RecipeError
from robustcli.networks.network import Network
from robustcli.norms import NORMS, exponent
from robustcli.recipes.methods import Adversarial, MaximumMargin
from robustcli.recipes.model import Recipe
from robustcli.training import mmr
from robustcli.training.adversarial import attacked_batch, make, worst_of
from robustcli.training.objective import Moment
from robustcli.training.randomness import generator
from tests.nets import convolutional

EPS = {"l1": 2.0, "l2": 0.6, "linf": 0.15}
BOX = (0.0, 1.0)


def setting() -> tuple[Network, torch.Tensor, torch.Tensor]:
    network = convolutional(seed=9).float()
    points = torch.rand(20, 1, 8, 8, generator=generator(0, "points"))
    points[:, :, :2] = 0.0
    labels = network(points).argmax(1)
    return network, points, labels


def attacked(norms: list[str], **settings: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Network]:
    network, points, labels = setting()
    method = Adversarial(name="at", norms=norms, steps=10, **settings)
    moved = attacked_batch(network, points, labels, method, EPS, BOX, generator(1, "attack"))
    return points, moved, labels, network


@pytest.mark.parametrize("norm", NORMS)
def test_points_lie_in_ball_and_box_and_hurt(norm: str) -> None:
    points, moved, labels, network = attacked([norm], fraction=1.0)
    ball = Ball.around(points.double(), EPS[norm], exponent(norm), BOX)
    assert ball.contains(moved.double(), tolerance=1e-5).all()
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not moved.requires_grad
    clean, worse = (F.cross_entropy(network(z), labels, reduction="none") for z in (points, moved))
    assert (worse > clean).float().mean() > 0.9


def test_only_the_first_part_is_attacked() -> None:
    points, moved, _, _ = attacked(["linf"], fraction=0.5)
    assert torch.equal(moved[10:], points[10:])
    assert (moved[:10] != points[:10]).flatten(1).any(1).all()
    unmoved = attacked(["linf"], fraction=0.0)
    assert torch.equal(unmoved[1], unmoved[0])


def test_the_union_takes_each_points_worst_norm() -> None:
    network, points, labels = setting()
    candidates = [points + shift for shift in (0.0, 0.1, -0.1)]
    worst = worst_of(network, candidates, labels)
    losses = torch.stack([F.cross_entropy(network(z), labels, reduction="none") for z in candidates])
    assert torch.allclose(F.cross_entropy(network(worst), labels, reduction="none"), losses.amax(0))
    assert losses.argmax(0).unique().numel() > 1
    _, moved, _, _ = attacked(list(NORMS), fraction=1.0)
    union_radius = EPS["l2"] + EPS["linf"] * 8
    assert Ball.around(points.double(), union_radius, 2.0, BOX).contains(moved.double(), 1e-5).all()


def test_the_same_moment_gives_the_same_points_and_leaves_the_network_alone() -> None:
    _, first, _, network = attacked(["l2"], fraction=1.0)
    _, second, _, _ = attacked(["l2"], fraction=1.0)
    assert torch.equal(first, second)
    assert all(weight.grad is None for weight in network.parameters())
    assert network.training == convolutional(seed=9).training


def recipe(norms: list[str], eps: dict[str, float]) -> Recipe:
    return Recipe(
        name="tiny",
        summary="x",
        origin="own",
        dataset="digits",
        architecture="1x4",
        method={"name": "at", "norms": norms, "fraction": 1.0, "steps": 3},
        eps=eps,
        norm="linf",
    )


def test_the_loss_is_the_mean_cross_entropy_of_the_attacked_batch() -> None:
    network, points, labels = setting()
    wanted = recipe(["linf"], EPS)
    network.requires_grad_()
    objective = make(wanted.method, wanted, network, 0)
    loss = objective(network, points, labels, Moment(1, 2, 0, generator(1, "attack")))
    moved = attacked_batch(network, points, labels, wanted.method, EPS, BOX, generator(1, "attack"))
    assert loss.total.item() == F.cross_entropy(network(moved), labels).item()
    loss.total.backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_norm_without_radius_is_refused() -> None:
    wanted = recipe(["linf", "l1"], {"linf": 0.1})
    with pytest.raises(RecipeError, match="l1"):
        make(wanted.method, wanted, setting()[0], 0)


@pytest.mark.parametrize("regularised", NORMS)
@pytest.mark.parametrize("attacked_in", [["l1"], ["l2"], ["linf"], ["l1", "linf"], list(NORMS)], ids="+".join)
def test_mmr_with_at_is_mmr_on_the_attacked_batch_for_any_pair_of_norms(
    regularised: str, attacked_in: list[str]
) -> None:
    network, points, labels = setting()
    at = Adversarial(name="at", norms=attacked_in, steps=3)
    both = MaximumMargin(name="mmr", norm=regularised, lmbd=1, gamma=0.3, adversarial=at)
    wanted = recipe(["linf"], EPS).model_copy(update={"method": both})
    moment = Moment(10, 20, 0, generator(4, "attack"))
    loss = mmr.make(both, wanted, network, 0)(network, points, labels, moment)
    moved = attacked_batch(network, points, labels, at, EPS, BOX, generator(4, "attack"))
    assert not torch.equal(moved[:10], points[:10])
    assert torch.equal(moved[10:], points[10:])
    alone = mmr.make(both.model_copy(update={"adversarial": None}), wanted, network, 0)
    expected = alone(network, moved, labels, moment)
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    assert loss.total.item() > alone(network, points, labels, moment).total.item()


def test_a_missing_radius_of_the_attack_is_refused_by_mmr_too() -> None:
    at = Adversarial(name="at", norms=["l1"], steps=3)
    both = MaximumMargin(name="mmr", norm="linf", lmbd=1, gamma=0.3, adversarial=at)
    wanted = recipe(["linf"], {"linf": 0.1}).model_copy(update={"method": both})
    with pytest.raises(RecipeError, match="l1"):
        mmr.make(both, wanted, setting()[0], 0)
