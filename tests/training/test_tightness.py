"""The regularisers of 004: the toy of its appendix E, sums by hand, gradients, and nothing at weight 0."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.indicators import tightness
from robustcli.bounds.relaxation import adaptive, parallel
from robustcli.networks.network import Network, margin_rows
from robustcli.recipes.methods import ConvexPolytope, CrownIntervals, Mix, Ramp, Tightening
from robustcli.training.expressive import Certified
from robustcli.training.ibp import IntervalLoss
from robustcli.training.interval_pass import bounds
from robustcli.training.kw import RobustCrossEntropy
from robustcli.training.objective import Moment, Objective
from robustcli.training.randomness import generator
from robustcli.training.tightness import terms
from tests.nets import convolutional, dense

WARM = Moment(10, 10, 0, generator(0))


def of(maps: list[list[list[float]]]) -> Network:
    """The ReLU net with these matrices and no biases."""
    network = dense([len(maps[0][0]), *map(len, maps)])
    for layer, matrix in zip(network.layers[::2], maps, strict=True):
        layer.weight.data = torch.tensor(matrix, dtype=torch.float64)
        layer.bias.data.zero_()
    return network


def kw(eps: float, gap: float, distance: float, warmup: int = 0, boxed: bool = False) -> RobustCrossEntropy:
    weights = Tightening(gap=gap, distance=distance, warmup_epochs=warmup)
    settings = ConvexPolytope(name="kw", norm="linf", boxed=boxed, tightness=weights)
    return RobustCrossEntropy(settings, eps, (0.0, 1.0) if boxed else None, terms(settings.tightness, parallel))


def crown_ibp(
    eps: float, gap: float, distance: float, beta: float = 1.0, norms: tuple[str, ...] = ("linf",)
) -> Objective:
    weights = Tightening(gap=gap, distance=distance, warmup_epochs=0)
    settings = CrownIntervals(
        name="crown-ibp", norms=list(norms), boxed=[], beta=Mix(start=beta, end=beta), tightness=weights
    )
    radii = dict.fromkeys(norms, eps)
    return IntervalLoss(settings, radii, None, Certified(settings), terms(settings.tightness, adaptive))


def toy() -> Network:
    """Logits (0, x_2 - |x_1|) (004, appendix E)."""
    return of([[[1, 0], [-1, 0], [0, 1], [0, -1]], [[0, 0, 0, 0], [-1, -1, 1, -1]]])


@pytest.mark.parametrize(("a", "c", "eps"), [(0.1, 0.42, 0.2), (0.05, 0.9, 0.25), (0.02, 0.5, 0.1), (0.19, 0.6, 0.29)])
def test_the_toy_is_tight_where_the_paper_says_so(a: float, c: float, eps: float) -> None:
    """For 0 < a < eps < b <= c - a: p* = c - a - 2 eps, with two unstable units, and d = r = 0 (claim 1)."""
    x, y = torch.tensor([[a, c]], dtype=torch.float64), torch.tensor([1])
    network = toy()
    rows, _ = margin_rows(y, 2, torch.float64)
    ball = Ball.around(x, eps, math.inf, None)
    assert int(dual(network, ball, rows).layers[0].unstable.sum()) == 2
    found = kw(eps, 3.0, 5.0)(network, x, y, WARM)
    assert float(found.parts["d"]) == pytest.approx(0, abs=1e-12)
    assert float(found.parts["r"]) == pytest.approx(0, abs=1e-12)
    assert float(found.total) == pytest.approx(math.log1p(math.exp(-(c - a - 2 * eps))), abs=1e-12)


def test_the_toy_is_not_tight_for_the_other_label() -> None:
    """The margin |x_1| - x_2 takes the lower lines, A_0 = (a / eps, -1): at x' = (a - eps, c + eps) the relaxation has
    a (a - eps) / eps for |x_1| and the network eps - a: d = (eps - a) (eps + a) / eps, r = eps - a."""
    x, y = torch.tensor([[0.1, 0.5]], dtype=torch.float64), torch.tensor([0])
    found = kw(0.2, 1.0, 1.0)(toy(), x, y, WARM)
    assert float(found.parts["d"]) == pytest.approx(0.15, abs=1e-12)
    assert float(found.parts["r"]) == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize(("weight", "gap", "distance"), [(3.0, 1.5 * 0.2, 0.2), (-3.0, 0.0, 0.0)])
def test_one_unit_by_hand(weight: float, gap: float, distance: float) -> None:
    """Margin w relu(x) around x = 0, l = -eps, u = eps.

    w > 0: the lower line x / 2 is smallest at x' = -eps, where the network has 0: d = w eps / 2, r = |x'| = eps.
    w < 0: the upper line (x + eps) / 2 at x' = eps = u meets the ReLU: d = r = 0.
    """
    network = of([[[1.0]], [[0.0], [weight]]])
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1])
    found = kw(0.2, 0.7, 0.9)(network, x, y, WARM)
    assert float(found.parts["d"]) == pytest.approx(gap, abs=1e-12)
    assert float(found.parts["r"]) == pytest.approx(distance, abs=1e-12)
    robust = math.log1p(math.exp(-(weight * (-0.1 if weight > 0 else 0.2))))
    assert float(found.total) == pytest.approx(robust + 0.7 * gap + 0.9 * distance, abs=1e-12)


def test_crown_by_hand() -> None:
    """Margin 2 relu(x) around x = 0.05, eps 0.2: u > -l, so CROWN's lower line is x, smallest at x' = l = -0.15.

    CROWN's margin is -0.3, the network's 0: d = 0.3, r = 0.15.
    """
    network = of([[[1.0]], [[0.0], [2.0]]])
    x, y = torch.full((1, 1), 0.05, dtype=torch.float64), torch.tensor([1])
    found = crown_ibp(0.2, 1.0, 1.0)(network, x, y, WARM)
    assert float(found.parts["d"]) == pytest.approx(0.3, abs=1e-12)
    assert float(found.parts["r"]) == pytest.approx(0.15, abs=1e-12)


def test_terms_are_sums_over_targets_and_means_over_points() -> None:
    network, x = dense([3, 6, 5, 4], 3), torch.rand(5, 3, dtype=torch.float64, generator=generator(2))
    y = torch.tensor([0, 1, 2, 3, 0])
    rows, _ = margin_rows(y, 4, torch.float64)
    ball = Ball.around(x, 0.2, math.inf, None)
    each = tightness(network, ball, rows, dual(network, ball, rows, outward=False))
    found, base = (kw(0.2, gap, distance)(network, x, y, WARM) for gap, distance in ((0.3, 0.8), (0.0, 0.0)))
    gap, distance = each.gap.sum() / 5, each.distance.sum() / 5
    assert gap > 0.1
    assert distance > 0.1
    assert float(found.total - base.total) == pytest.approx(float(0.3 * gap + 0.8 * distance), rel=1e-12)
    assert float(found.parts["d"]) == pytest.approx(float(gap), rel=1e-12)


def gradients(objective: Objective, network: Network, x: Tensor, y: Tensor) -> list[Tensor]:
    total = objective(network, x, y, WARM).total
    return [total.detach(), *torch.autograd.grad(total, list(network.parameters()))]


@pytest.mark.parametrize("make", [kw, crown_ibp])
def test_weight_0_is_the_base_objective(make) -> None:
    network = convolutional(2).requires_grad_()
    x, y = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=generator(4)), torch.tensor([0, 1, 2])
    weighted = make(0.1, 0.0, 0.0)
    for ours, theirs in zip(
        gradients(weighted, network, x, y), gradients(replace(weighted, terms=()), network, x, y), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "objective",
    [kw(0.15, 0.4, 0.0), kw(0.15, 0.0, 0.7), kw(0.15, 0.4, 0.7, boxed=True), crown_ibp(0.1, 0.4, 0.7)],
    ids=["d", "r", "both, boxed", "crown-ibp"],
)
@pytest.mark.parametrize("network", [dense([3, 5, 4, 3], 2), convolutional(5, side=5, classes=3)])
def test_gradients_are_those_of_finite_differences(network: Network, objective: Objective) -> None:
    network.requires_grad_()
    x = torch.rand(2, *network.input_shape, dtype=torch.float64, generator=generator(3))
    y = torch.tensor([0, 2])
    _, *found = gradients(objective, network, x, y)
    step = 1e-6
    for weight, gradient in zip(network.parameters(), found, strict=True):
        values, slopes = weight.data.view(-1), gradient.flatten()
        for entry in range(0, len(values), 1 + len(values) // 4):
            before, ends = values[entry].item(), []
            for moved in (before + step, before - step):
                values[entry] = moved
                ends.append(objective(network, x, y, WARM).total.item())
            values[entry] = before
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slopes[entry]), abs=1e-5)


def test_random_projections_carry_the_terms_too() -> None:
    """Fewer hidden units than projections leave nothing to estimate; else the terms are those of the estimates."""
    network, x = dense([6, 30, 20, 4], 3), torch.rand(4, 6, dtype=torch.float64, generator=generator(2))
    y = torch.tensor([0, 1, 2, 3])
    exact = kw(0.1, 0.3, 0.8)

    def projected(count: int) -> RobustCrossEntropy:
        return replace(exact, settings=exact.settings.model_copy(update={"projections": count}))

    found = {count: projected(count)(network, x, y, WARM).parts for count in (100, 3)}
    for name, value in exact(network, x, y, WARM).parts.items():
        assert float(found[100][name]) == pytest.approx(float(value), rel=1e-9)
    assert float(found[3]["r"]) != pytest.approx(float(found[100]["r"]), rel=1e-3)
    _, *slopes = gradients(projected(3), network.requires_grad_(), x, y)
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_weights_warm_up_step_by_step() -> None:
    network, x = dense([3, 6, 5, 4], 3), torch.rand(4, 3, dtype=torch.float64, generator=generator(2))
    y = torch.tensor([0, 1, 2, 3])

    def extra(epoch: int, step: int) -> float:
        moment = Moment(epoch, 40, step, generator(0), steps=10)
        found, base = (kw(0.2, gap, 0.0, 20)(network, x, y, moment) for gap in (0.3, 0.0))
        return float((found.total - base.total) / found.parts["d"])

    shares = [extra(*when) / 0.3 for when in ((1, 0), (6, 5), (20, 9), (21, 0), (40, 9))]
    assert shares == pytest.approx([0, 5.5 / 20, 19.9 / 20, 1, 1], abs=1e-9)


def test_crown_ibp_is_regularised_in_its_first_stage_only() -> None:
    network, x = dense([3, 6, 5, 4], 3), torch.rand(4, 3, dtype=torch.float64, generator=generator(2))
    y = torch.tensor([0, 1, 2, 3])
    settings = CrownIntervals(
        name="crown-ibp", norms=["linf"], ramp=Ramp(epochs=4), tightness=Tightening(distance=1, warmup_epochs=0)
    )
    loss = IntervalLoss(settings, {"linf": 0.2}, None, Certified(settings), terms(settings.tightness, adaptive))
    told = [loss(network, x, y, Moment(epoch, 9, 0, generator(0))).parts for epoch in (1, 4, 5, 9)]
    assert ["r" in parts for parts in told] == [True, True, False, False]


def test_several_norms_share_the_terms() -> None:
    network, x = dense([3, 6, 5, 4], 3), torch.rand(4, 3, dtype=torch.float64, generator=generator(2))
    y = torch.tensor([0, 1, 2, 3])
    rows, _ = margin_rows(y, 4, torch.float64)
    balls = [Ball.around(x, 0.2, p, None) for p in (2.0, math.inf)]
    found = bounds(network, balls, rows, 1.0)
    each = [tightness(network, ball, rows, found, adaptive).distance.sum(1).mean() for ball in balls]
    assert abs(float(each[0] - each[1])) > 0.01
    told = crown_ibp(0.2, 1.0, 1.0, norms=("l2", "linf"))(network, x, y, WARM).parts["r"]
    assert float(told) == pytest.approx(float(sum(each) / 2), rel=1e-12)
