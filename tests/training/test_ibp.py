"""The IBP family: golden numbers, losses above the true worst case, mixtures between their ends, true gradients."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from robustcli.balls import Ball
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.interval import interval
from robustcli.data.specs import spec
from robustcli.networks.folding import folded, with_batch_norm
from robustcli.networks.layers import BatchNorm
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import NORMS, exponent
from robustcli.recipes.methods import Expressive
from robustcli.recipes.model import Recipe
from robustcli.training.expressive import LOSSES, inside
from robustcli.training.ibp import IntervalLoss, make, weight_sum
from robustcli.training.interval_pass import bounds, clean_pass, cross_entropies
from robustcli.training.objective import Moment
from robustcli.training.randomness import generator
from tests.nets import convolutional, dense, golden_network

EPS = {"l1": 0.3, "l2": 0.2, "linf": 0.08}
NETWORKS = {"dense": dense([4, 7, 5, 3], seed=5), "convolutional": convolutional(seed=4), "no hidden": dense([4, 3])}
MIXTURES = ["mtl-ibp", "cc-ibp", "exp-ibp"]


def objective(settings: dict[str, Any], **changes: Any) -> IntervalLoss:
    """The method's objective for the digits' box [0, 1], at the whole radius unless it has a ramp."""
    recipe = Recipe(
        name="digits-test",
        summary="a test",
        origin="own",
        dataset="digits",
        architecture="1x12",
        method={"norms": ["linf"]} | settings,
        eps=EPS,
        norm="linf",
        **changes,
    )
    made = make(recipe.method, recipe, dense([2, 2]), 0)
    assert isinstance(made, IntervalLoss)
    assert made.box == spec("digits").box == (0.0, 1.0)
    return made


def moment(epoch: int = 20) -> Moment:
    return Moment(epoch, 20, 0, generator(0), 1)


def batch(network: Network, count: int = 6) -> tuple[Tensor, Tensor]:
    """Points of the box, some on its faces, with the labels the network gives them."""
    x = torch.rand(count, *network.input_shape, dtype=torch.float64, generator=generator(1)) * 1.4 - 0.2
    x = x.clamp(0, 1)
    return x, network(x).argmax(1)


def loss(network: Network, settings: dict[str, Any], epoch: int = 20) -> float:
    x, y = batch(network)
    return objective(settings)(network, x, y, moment(epoch)).total.item()


def test_golden_losses() -> None:
    """Net G, linf 0.1, attacked point (0.55, 0.2)."""
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    found = bounds(network, [Ball.around(x, 0.1, math.inf, None)], rows).margins
    assert found.squeeze(0).tolist() == pytest.approx([-0.71875, 0.51875], abs=1e-9)
    attacked = (rows @ network(torch.tensor([[0.55, 0.2]], dtype=torch.float64)).unsqueeze(2)).squeeze(2)
    assert attacked.squeeze(0).tolist() == pytest.approx([0.05, 1.49375], abs=1e-9)
    assert [cross_entropies(m).item() for m in (attacked, found)] == pytest.approx([0.7773773, 1.2939408], abs=1e-6)
    golden = {0.5: (1.0356591, 1.0161919, 1.0029358), 0.1: (0.8290337, 0.8218758, 0.8180129)}
    for alpha, values in golden.items():
        for name, value in zip(MIXTURES, values, strict=True):
            mixture = LOSSES[name](Expressive(name=name, norms=["linf"], alpha=alpha))
            assert mixture.mix(found, attacked).item() == pytest.approx(value, abs=1e-6)


def test_golden_crown_ibp() -> None:
    network, x, y = golden_network()
    rows, _ = margin_rows(y, 3, torch.float64)
    ball = Ball.around(x, 0.1, math.inf, None)
    ends = [bounds(network, [ball], rows, beta).margins for beta in (0.0, 1.0)]
    assert ends[1].squeeze(0).tolist() == pytest.approx([-0.334375, 1.03125], abs=1e-6)
    assert torch.allclose(bounds(network, [ball], rows, 0.3).margins, 0.7 * ends[0] + 0.3 * ends[1])


def test_golden_small_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    """SABR with lambda 0.4: the box around (0.59, 0.24), CE 0.9602437."""
    network, x, y = golden_network()
    monkeypatch.setitem(EPS, "linf", 0.1)
    made = objective({"name": "sabr", "ratio": 0.4, "boxed": []})
    corner = torch.tensor([[0.55, 0.2]], dtype=torch.float64)
    monkeypatch.setattr("robustcli.training.expressive.training_points", lambda *_: corner)
    found = made(network, x, y, moment())
    assert found.total.item() == pytest.approx(0.9602437, abs=1e-6)
    assert found.parts["robust_error"].item() == 1.0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_one_norm_is_the_interval_bound(name: str, norm: str, boxed: bool) -> None:
    network = NETWORKS[name]
    x, y = batch(network)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    ball = Ball.around(x, EPS[norm], exponent(norm), (0.0, 1.0) if boxed else None)
    expected = interval(network, ball, rows, outward=False)
    found = bounds(network, [ball], rows)
    assert torch.allclose(found.margins, expected.margins, rtol=0, atol=1e-12)
    both = crown_ibp(network, ball, rows, outward=False)
    assert bool((bounds(network, [ball], rows, 1.0).margins <= both.margins + 1e-12).all())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_hull_bounds_every_point_of_every_ball(name: str, beta: float, boxed: bool) -> None:
    """Sampled margins, and sampled values of every hidden unit, over all three balls and between them."""
    network = NETWORKS[name]
    x, y = batch(network)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    balls = [Ball.around(x, EPS[norm], exponent(norm), (0.0, 1.0) if boxed else None) for norm in NORMS]
    found = bounds(network, balls, rows, beta)
    samples = [ball.sample(300, generator(3)) for ball in balls]
    share = torch.rand(samples[0].shape[:2], dtype=torch.float64, generator=generator(4))
    share = share.view(*share.shape, *[1] * (x.dim() - 1))
    samples += [share * first + (1 - share) * second for first, second in itertools.combinations(samples, 2)]
    for points in samples:
        flat = points.flatten(0, 1)
        seen = network(flat).view(len(x), -1, network.classes) @ rows.transpose(1, 2)
        assert bool((seen >= found.margins.unsqueeze(1) - 1e-9).all())
        for values, layer in zip(network.pre_activations(flat)[:-1], found.layers, strict=True):
            values = values.view(*points.shape[:2], *values.shape[1:])
            assert bool((values >= layer.lower.unsqueeze(1) - 1e-9).all())
            assert bool((values <= layer.upper.unsqueeze(1) + 1e-9).all())


@pytest.mark.parametrize("union", ["hull", "worst"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_the_loss_is_at_least_the_largest_cross_entropy_of_any_norm(union: str, method: str) -> None:
    network = NETWORKS["dense"]
    x, y = batch(network, 1)
    for boxed in ([], ["linf"], list(NORMS)):
        settings = {"name": method, "norms": list(NORMS), "union": union, "boxed": boxed, "beta": {"end": 0.5}}
        certified = objective(settings)(network, x, y, moment()).total.item()
        for norm in NORMS:
            ball = Ball.around(x, EPS[norm], exponent(norm), (0.0, 1.0) if norm in boxed else None)
            points = ball.sample(2000, generator(5)).flatten(0, 1)
            worst = F.cross_entropy(network(points), y.expand(len(points)), reduction="none").max().item()
            assert worst <= certified + 1e-9


def test_unions_are_ordered() -> None:
    """mean <= worst <= hull, and each norm on its own <= worst."""
    for network in (NETWORKS["dense"], NETWORKS["convolutional"]):
        alone = [loss(network, {"name": "ibp", "norms": [norm]}) for norm in NORMS]
        joined = {
            u: loss(network, {"name": "ibp", "norms": list(NORMS), "union": u}) for u in ("mean", "worst", "hull")
        }
        assert joined["mean"] == pytest.approx(sum(alone) / 3)
        assert max(alone) <= joined["worst"] + 1e-12
        assert joined["worst"] <= joined["hull"] + 1e-12


@pytest.mark.parametrize("union", ["hull", "worst", "mean"])
@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_end_at_ibp_and_at_adversarial_training(name: str, union: str) -> None:
    network = NETWORKS["dense"]
    shared = {"norms": ["l2", "linf"], "union": union}
    pure = loss(network, {"name": "ibp"} | shared)
    values = [loss(network, {"name": name, "alpha": alpha} | shared) for alpha in (0.0, 0.25, 0.5, 1.0)]
    assert values[-1] == pytest.approx(pure, rel=1e-9)
    attacked = [loss(network, {"name": other, "alpha": 0.0} | shared) for other in MIXTURES]
    assert attacked == pytest.approx([attacked[0]] * 3, rel=1e-9)
    assert loss(network, {"name": "ibp", "eps_factor": 1e-9} | shared) <= values[0] <= pure
    assert values == sorted(values)


@pytest.mark.parametrize("name", MIXTURES)
def test_bounds_of_a_mixture_may_take_smaller_balls_than_its_attack(name: str) -> None:
    network = NETWORKS["convolutional"]
    for union in ("hull", "worst", "mean"):
        shared = {"name": name, "norms": ["l1", "linf"], "union": union}
        smaller = shared | {"bound_radius": {"l1": 0.25}}
        assert loss(network, smaller | {"alpha": 0.0}) == loss(network, shared | {"alpha": 0.0})
        assert loss(network, smaller | {"alpha": 1.0}) < loss(network, shared | {"alpha": 1.0})
    alone = {"norms": ["l2"], "bound_radius": {"l2": 0.25}, "alpha": 1.0}
    quarter = loss(network, {"name": "ibp", "norms": ["l2"], "eps_factor": 0.25})
    assert loss(network, {"name": name} | alone) == pytest.approx(quarter, rel=1e-9)
    with pytest.raises(ValidationError, match="l1, which norms does not"):
        objective({"name": name, "norms": ["l2"], "alpha": 0.5, "bound_radius": {"l1": 0.5}})


def test_mixtures_are_ordered() -> None:
    """CC <= MTL by convexity, Exp <= MTL as geometric and arithmetic mean."""
    for alpha in (0.1, 0.5, 0.9):
        found = {name: loss(NETWORKS["convolutional"], {"name": name, "alpha": alpha}) for name in MIXTURES}
        assert found["cc-ibp"] <= found["mtl-ibp"] + 1e-12
        assert found["exp-ibp"] <= found["mtl-ibp"] + 1e-12


@pytest.mark.parametrize("norms", [["l1"], ["l2"], ["linf"], list(NORMS)])
def test_sabr_with_the_whole_radius_is_ibp(norms: list[str]) -> None:
    network = NETWORKS["convolutional"]
    for boxed in ([], norms):
        whole = loss(network, {"name": "sabr", "ratio": 1.0, "norms": norms, "boxed": boxed})
        assert whole == pytest.approx(loss(network, {"name": "ibp", "norms": norms, "boxed": boxed}), rel=1e-9)
        assert loss(network, {"name": "sabr", "ratio": 0.3, "norms": norms, "boxed": boxed}) < whole


@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_the_small_box_at_the_border_is_that_of_the_paper(ratio: float) -> None:
    """In [l, u], cut with the input box: radius t = min(ratio eps, (u - l) / 2) around the point clipped to
    [l + t, u - t], coordinate by coordinate."""
    x = torch.tensor([[0.0, 0.02, 0.5, 0.97, 1.0]], dtype=torch.float64)
    points = x + 0.1 * torch.tensor([[-1.0], [-0.3], [0.0], [0.6], [1.0]], dtype=torch.float64)
    ball = Ball.around(x.expand(5, 5), 0.1, math.inf, (0.0, 1.0))
    low, high = ball.bounding_box()
    t = torch.clamp((high - low) / 2, max=ratio * 0.1)
    middle = torch.minimum(torch.maximum(points, low + t), high - t)
    for found, expected in zip(inside(ball, ratio, points).bounding_box(), (middle - t, middle + t), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations(NORMS)))
def test_the_hull_of_small_balls_is_no_smaller_than_any_of_them(order: tuple[str, ...]) -> None:
    """They lie around different points: each norm has its own attack."""
    settings = {"name": "sabr", "ratio": 0.4, "norms": list(order)}
    for name in ("dense", "convolutional"):
        whole, worst = (loss(NETWORKS[name], {**settings, "union": union}) for union in ("hull", "worst"))
        assert whole > worst


@pytest.mark.parametrize("norm", NORMS)
def test_the_small_ball_lies_inside_the_whole_one(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["dense"]
    x, y = batch(network)
    seen: list[Ball] = []

    def watched(network: Network, balls: list[Ball], rows: Tensor, beta: float) -> Any:
        seen.extend(balls)
        return bounds(network, balls, rows, beta)

    monkeypatch.setattr("robustcli.training.expressive.bounds", watched)
    objective({"name": "sabr", "ratio": 0.4, "norms": [norm], "boxed": [norm]})(network, x, y, moment())
    (small,) = seen
    whole = Ball.around(x, EPS[norm], exponent(norm), (0.0, 1.0))
    assert small.eps.tolist() == pytest.approx([0.4 * EPS[norm]] * len(x))
    points = small.sample(200, generator(6))
    assert all(bool(whole.contains(points[:, place], 1e-9).all()) for place in range(points.shape[1]))
    assert bool((whole.distance(small.center) > 0.3 * EPS[norm]).any())  # it did move


def with_statistics(plain: Network) -> Network:
    network = Network.from_description(with_batch_norm(plain.describe())).double()
    kept = [layer for layer in network.layers if not isinstance(layer, BatchNorm)]
    for layer, old in zip(kept, plain.layers, strict=True):
        layer.load_state_dict(old.state_dict())
    for place, layer in enumerate(network.layers):
        if isinstance(layer, BatchNorm):
            layer.weight.data = torch.randn(layer.weight.shape, dtype=torch.float64, generator=generator(place))
            layer.bias.data = torch.randn(layer.bias.shape, dtype=torch.float64, generator=generator(place, "bias"))
    return network


@pytest.mark.parametrize("name", ["dense", "convolutional"])
def test_bounds_see_the_batch_normalisation_of_the_clean_batch(name: str) -> None:
    """As in the folded network whose running statistics are those of the batch; which move by one batch, once."""
    network = with_statistics(NETWORKS[name]).train()
    x, y = batch(NETWORKS[name])
    rows, _ = margin_rows(y, network.classes, torch.float64)
    balls = [Ball.around(x, EPS[norm], exponent(norm), None) for norm in NORMS]
    logits, seen = clean_pass(network, x)
    norms = [layer for layer in network.layers if isinstance(layer, BatchNorm)]
    assert all(layer.running_mean.abs().sum() > 0 for layer in norms)
    before = [layer.running_mean.clone() for layer in norms]
    found = bounds(seen, balls, rows, 0.5)
    assert all(torch.equal(layer.running_mean, mean) for layer, mean in zip(norms, before, strict=True))
    assert torch.allclose(seen(x), logits, rtol=0, atol=1e-12)
    values = x
    network.eval()
    for layer in network.layers:
        if isinstance(layer, BatchNorm):
            over = [0, *range(2, values.dim())]
            layer.running_var, layer.running_mean = (v.detach() for v in torch.var_mean(values, over, correction=0))
        values = layer(values)
    whole = folded(network)
    expected = bounds(whole, balls, rows, 0.5)
    assert torch.allclose(found.margins, expected.margins, rtol=0, atol=1e-9)
    assert torch.allclose(clean_pass(network, x)[1](x), whole(x), rtol=0, atol=1e-9)  # at evaluation: running ones


SETTINGS: dict[str, dict[str, Any]] = {
    "ibp, everything": {
        "name": "ibp",
        "boxed": [],
        "ramp": {"epochs": 20},
        "kappa": {"start": 1, "end": 0.5},
        "stability": 0.5,
        "l1": 1e-2,
    },
    "ibp, union": {"name": "ibp", "norms": list(NORMS), "boxed": list(NORMS)},
    "worst": {"name": "ibp", "norms": list(NORMS), "union": "worst"},
    "crown-ibp": {"name": "crown-ibp", "beta": {"end": 0.7}},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("normalised", [False, True])
def test_gradients_are_those_of_finite_differences(settings: str, normalised: bool) -> None:
    plain = dense([4, 6, 5, 3], seed=8)
    network = (with_statistics(plain) if normalised else plain).train().requires_grad_()
    x, y = batch(plain)
    made = objective(SETTINGS[settings])

    def value() -> Tensor:
        return made(network, x, y, moment(11)).total

    value().backward()
    step = 1e-6
    for weight in network.parameters():
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for entry in range(0, flat.numel(), 3):
            before = flat[entry].item()
            flat[entry] = before + step
            above = value().item()
            flat[entry] = before - step
            below = value().item()
            flat[entry] = before
            assert (above - below) / (2 * step) == pytest.approx(gradient[entry].item(), abs=1e-5, rel=1e-5)
    plain.requires_grad_(False)


def test_the_start_of_the_ramp_is_clean_training() -> None:
    network = NETWORKS["dense"]
    x, y = batch(network)
    clean = F.cross_entropy(network(x), y).item()
    for settings in ({"name": "ibp"}, {"name": "sabr", "ratio": 0.5}, {"name": "mtl-ibp", "alpha": 0.5}):
        ramped = settings | {"ramp": {"start": 3, "epochs": 4}}
        assert loss(network, ramped, epoch=3) == pytest.approx(clean, rel=1e-3)
        assert loss(network, ramped, epoch=8) == loss(network, settings)
        assert loss(network, ramped | {"kappa": {"start": 1.0}}, epoch=1) == pytest.approx(clean, rel=1e-12)


def test_parts_and_weights_of_the_loss() -> None:
    network = NETWORKS["dense"]
    x, y = batch(network)
    found = objective({"name": "ibp", "kappa": {"end": 0.25}, "l1": 0.5})(network, x, y, moment())
    parts = {name: value.item() for name, value in found.parts.items()}
    expected = 0.25 * parts["ce"] + 0.75 * parts["robust"] + 0.5 * weight_sum(network).item()
    assert found.total.item() == pytest.approx(expected)
    layers = network.layers[::2]
    assert weight_sum(network).item() == pytest.approx(sum(layer.weight.abs().sum().item() for layer in layers))
    rows, _ = margin_rows(y, 3, torch.float64)
    certified = (interval(network, Ball.around(x, 0.08, math.inf, (0, 1)), rows).margins > 0).all(1)
    assert parts["robust_error"] == pytest.approx(1 - certified.double().mean().item())


def test_a_bound_that_is_no_number_certifies_nothing() -> None:
    network = dense([4, 6, 3], seed=3)
    network.layers[0].weight.data[0, 0] = math.nan
    x = torch.rand(5, 4, dtype=torch.float64, generator=generator(2))
    found = objective({"name": "ibp"})(network, x, torch.zeros(5, dtype=torch.int64), moment())
    assert found.parts["robust_error"].item() == 1.0
