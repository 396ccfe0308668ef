"""The regulariser on one batch: equal, with its gradients, to hinges on distances from whole Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.conventions import Convention
from robustcli.training.hinges import hinge, nearest_units
from robustcli.training.margin import Hinge, Margin, Selection, own, union
from tests.nets import STACKS, convolutional, dense, golden_network
from tests.regions.dense import distances
from tests.regions.test_chosen_norms import gradients

NETS = {
    "golden": golden_network()[0],
    "dense": dense([4, 6, 5, 5, 3], 1),
    "convolutional": convolutional(1, side=9, channels=2, normalise=True),
    **STACKS,
}
HINGES = [Hinge(1.0, 2.0, 3.0), Hinge(math.inf, 0.3, 1.0), Hinge(2.0, 0.5, 0.7)]


def in_full(margin: Margin, network: Network, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same from all distances, all with gradients."""
    found = [distances(network, points, labels, dual(h.p), margin.convention.stabiliser) for h in margin.hinges]
    masks = [nearest_units(boundary, margin.count, margin.offsets) for boundary, _ in found]
    boundary, decision = points.new_zeros(len(points)), points.new_zeros(len(points))
    for h, mask, (units, classes) in zip(margin.hinges, margin.selection(masks), found, strict=True):
        boundary = boundary + h.weight * torch.where(mask, hinge(units, h.gamma), 0.0).sum(1) / margin.count
        decision = decision + h.weight * hinge(classes, h.gamma).sum(1) / margin.divisor
    return boundary if margin.boundary else 0 * boundary, decision


@pytest.mark.parametrize(
    ("hinges", "selection"), [(HINGES[:1], own), (HINGES[1:2], own), (HINGES, own), (HINGES, union)]
)
@pytest.mark.parametrize("width", [0.0, 1e-3])
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_full_form(name: str, width: float, hinges: Sequence[Hinge], selection: Selection) -> None:
    network = NETS[name].requires_grad_(True)
    points = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.arange(3) % network.classes
    units = network.hidden_units
    for boundary in (True, False):
        margin = Margin(
            hinges, max(1, units // 4), network.classes, torch.zeros(units), selection, Convention(width), boundary
        )
        found, expected = margin(Region.of(network, points), labels), in_full(margin, network, points, labels)
        weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
        pairs = [(terms[0] @ weights + terms[1].sum()) for terms in (found, expected)]
        for a, b in zip(gradients(pairs[0], network), gradients(pairs[1], network), strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    network.requires_grad_(False)


def test_single_precision_agrees_to_its_rounding() -> None:
    network = convolutional(0, side=12)
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.rand(6, 1, 12, 12, generator=generator, dtype=torch.float64), torch.arange(6) % 4
    units = network.hidden_units
    margin = Margin(HINGES, units // 5, 4, torch.zeros(units), union)
    single = Network.from_description(network.describe())
    single.load_state_dict(network.state_dict())
    network.requires_grad_(True)
    pairs = []
    for net, x in ((network, points), (single, points.float())):
        boundary, decision = margin(Region.of(net, x), labels)
        value = boundary.sum() + decision.sum()
        pairs.append([value.detach().double(), *(g.double() for g in gradients(value, net))])
    for a, b in zip(*pairs, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


@pytest.mark.parametrize("selection", [own, union])
@pytest.mark.parametrize("make", [lambda: convolutional(0, side=20), lambda: dense([30, 80, 60, 50, 4], 2)])
def test_low_precision_chooses_the_same_units(make: Callable[[], Network], selection: Selection) -> None:
    network = make().float()
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.rand(6, *network.input_shape, generator=generator), torch.arange(6) % 4
    count = network.hidden_units // 5
    hinges = [Hinge(1.0, 1.0, 3.0), Hinge(math.inf, 0.1, 1.0)]
    values = []
    for products in (None, torch.bfloat16):
        margin = Margin(hinges, count, 4, torch.zeros(network.hidden_units), selection, products=products)
        boundary, decision = margin(Region.of(network, points), labels)
        values.append(torch.cat([boundary, decision]).detach())
    assert torch.allclose(*values, rtol=1e-5)


def test_more_units_than_there_are_are_all_of_them() -> None:
    network, x, label = golden_network()
    with torch.no_grad():
        network.layers[0].weight[0] = 0
    few, many = (
        Margin(HINGES[:1], count, 3, torch.zeros(7))(Region.of(network, x), label)[0] * count for count in (7, 100)
    )
    assert torch.allclose(few, many)
    assert few.isfinite().all()


@pytest.mark.parametrize(
    ("hinge_of", "expected"), [((1.0, 0.5), 0.890580), ((2.0, 0.4), 0.883837), ((math.inf, 0.3), 0.884409)]
)
def test_golden_values(hinge_of: tuple[float, float], expected: float) -> None:
    network, x, label = golden_network()
    boundary, _ = Margin([Hinge(*hinge_of)], 3, 3, torch.zeros(7))(Region.of(network, x), label)
    assert float(boundary) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("divisor", "decision"), [(2, 0.942857), (3, 0.628571)])
@pytest.mark.parametrize("selection", [own, union])
def test_golden_values_of_two_norms(selection: Selection, divisor: int, decision: float) -> None:
    network, x, label = golden_network()
    hinges = [Hinge(1.0, 0.5, 1.0), Hinge(math.inf, 0.3, 2.0)]
    found = Margin(hinges, 2, divisor, torch.zeros(7), selection)(Region.of(network, x), label)
    assert float(found[0]) == pytest.approx(2.730762, abs=1e-6)
    assert float(found[1]) == pytest.approx(decision, abs=1e-6)


def test_union_penalises_the_units_of_both_norms() -> None:
    one, infinite = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    assert [mask.tolist() for mask in union([one, infinite])] == [[[True, False, True]]] * 2
    assert own([one, infinite]) == [one, infinite]


def test_decision_boundaries_may_have_their_own_gamma() -> None:
    network, x, label = golden_network()
    region = Region.of(network, x)
    same, other = (Margin([Hinge(2.0, 0.4, 1.0, g)], 3, 3, torch.zeros(7))(region, label) for g in (None, 0.8))
    assert torch.equal(same[0], other[0])
    assert float(other[1]) == pytest.approx(sum(1 - d / 0.8 for d in (0.189059, 0.337018)) / 3, abs=1e-6)
