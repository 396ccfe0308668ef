"""The search over neighbouring pieces: never above the true distance, equal to it without a budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustcli.networks.network import Network, margins
from robustcli.regions.affine import Region
from robustcli.regions.certificate import Certificate
from robustcli.regions.incumbents import Incumbent
from robustcli.regions.neighbours import Reached, search
from robustcli.regions.polish import polish
from tests.nets import dense, golden_network
from tests.oracle import Box, minimal_distance
from tests.regions.test_affine import points_of
from tests.regions.test_pieces import piece_of

UNIT = (0.0, 1.0)
PS = [1.0, 2.0, math.inf]


def searched(
    network: Network, point: torch.Tensor, label: int, p: float, box: Box, regions: int | None
) -> tuple[Reached, Incumbent]:
    """The search from one point [*input_shape], nothing misclassified known before."""
    x, labels = point.unsqueeze(0), torch.tensor([label])
    region = Region.of(network, x)
    errors = Certificate.of(region, x, labels).errors.values
    known = Incumbent(network, x, labels, p, box, point.clone())
    doubtful = (region.hidden().abs() <= errors)[0].numpy()
    found = search(piece_of(network, point, label, p), doubtful, p, box, regions, known)
    if math.isfinite(known.distance):
        assert margins(network(known.point.unsqueeze(0)), labels) < 0
        assert box is None or bool(((known.point >= box[0]) & (known.point <= box[1])).all())
    return found, known


def test_golden_budgets() -> None:
    """methods: lower .025/.025/.029032/.029032/.045455 after 0/1/2/3/5 regions, upper .112308 from 2 on, exact in the
    end; keys that know the nearest point of their piece are at least as large."""
    network, x, _ = golden_network()
    for regions, least in ((0, 0.025), (1, 0.025), (2, 0.029032), (3, 0.029032), (5, 0.045455)):
        found, known = searched(network, x[0], 1, math.inf, None, regions)
        assert least - 1e-6 <= found.lower <= 0.112308 + 1e-6
        assert found.regions == regions + 1
        assert not found.complete
        assert (known.distance == pytest.approx(0.112308, abs=1e-6)) == (regions >= 2)
    found, known = searched(network, x[0], 1, math.inf, None, None)
    assert found.complete
    assert found.lower == pytest.approx(0.1123076923, abs=1e-9)
    assert known.distance == pytest.approx(found.lower, abs=1e-7)
    assert found.regions <= 8


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", PS)
def test_equal_to_enumeration(p: float, box: Box) -> None:
    exact = 0
    for widths, seed in (([2, 5, 4, 3], 5), ([3, 8, 3], 1), ([2, 12, 2], 4), ([3, 4, 3, 3], 4)):
        network = dense(widths, seed)
        for point in points_of(network, 1, seed):
            label = int(network(point.unsqueeze(0)).argmax())
            true = minimal_distance(network, point, label, p, box)
            before = 0.0
            for regions in (0, 2, 5):
                found, known = searched(network, point, label, p, box, regions)
                assert before <= found.lower + 1e-12
                assert found.lower <= true <= known.distance + 1e-9
                before = found.lower
            found, known = searched(network, point, label, p, box, None)
            assert found.complete
            assert found.lower <= true
            if math.isfinite(true):
                exact += 1
                assert found.lower == pytest.approx(true, abs=1e-7)
                assert known.distance == pytest.approx(true, rel=2e-6)
            else:
                assert found.lower > 1e5
    assert exact == 4


@pytest.mark.parametrize("p", PS)
def test_a_point_on_region_boundaries(p: float) -> None:
    """Zero biases at the origin: the point lies on the boundaries of all units, in any combination of their bits."""
    network = dense([2, 5, 3], 4)
    network.layers[0].bias.data.zero_()
    point = torch.zeros(2, dtype=torch.float64)
    label = int(network(point.unsqueeze(0)).argmax())
    true = minimal_distance(network, point, label, p, None)
    assert searched(network, point, label, p, None, 0)[0].lower == 0
    assert searched(network, point, label, p, None, None)[0].lower == pytest.approx(true, abs=1e-7)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_units_with_the_same_hyperplane(factor: float) -> None:
    """Their bits change at once; the piece with one of them changed is flat, and must not end the search."""
    network = dense([2, 6, 3], 11)
    for weight in (network.layers[0].weight.data, network.layers[0].bias.data):
        weight[3:] = factor * weight[:3]
    point = points_of(network, 1, 1)[0]
    label = int(network(point.unsqueeze(0)).argmax())
    for p in PS:
        for box in (None, UNIT):
            true = minimal_distance(network, point, label, p, box)
            found, _ = searched(network, point, label, p, box, None)
            assert found.lower <= true
            assert found.lower == pytest.approx(true, abs=1e-7) or (found.lower > 1e5 and math.isinf(true))


def test_other_norms_stay_below_found_points() -> None:
    network, x, _ = golden_network()
    for p in (1.5, 4.0):
        for box in (None, UNIT):
            found, known = searched(network, x[0], 1, p, box, None)
            assert 0.05 < found.lower <= known.distance
            assert known.distance < 0.14


def test_a_constant_network_has_nothing_to_find() -> None:
    network = dense([2, 3, 2])
    network.layers[2].weight.data.zero_()
    network.layers[2].bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found, known = searched(network, torch.full((2,), 0.4).double(), 0, 2.0, UNIT, None)
    assert found.lower == math.inf
    assert known.distance == math.inf


@pytest.mark.parametrize("box", [None, UNIT])
@pytest.mark.parametrize("p", PS)
def test_polish_brings_a_far_point_nearer(p: float, box: Box) -> None:
    """Never above the point it starts from, never below the true distance, misclassified in float64."""
    improved = 0
    for seed in (3, 5, 9):
        network = dense([3, 8, 3], seed)
        point = points_of(network, 1, seed)[0]
        label = int(network(point.unsqueeze(0)).argmax())
        true = minimal_distance(network, point, label, p, box)
        if math.isinf(true):
            continue
        generator = torch.Generator().manual_seed(seed)
        spread = torch.rand(4000, 3, generator=generator, dtype=torch.float64)
        far = spread if box is not None else 20 * (spread - 0.5)
        wrong = far[margins(network(far), torch.full((4000,), label)) < 0]
        if not len(wrong):
            continue
        distance = float(np.linalg.norm((wrong[0] - point).numpy(), ord=p))
        known = Incumbent(network, point.unsqueeze(0), torch.tensor([label]), p, box, wrong[0].clone(), distance)
        polish(piece_of(network, point, label, p), known, 20)
        assert true - 1e-9 <= known.distance <= distance
        assert margins(network(known.point.unsqueeze(0)), torch.tensor([label])) < 0
        assert float(np.linalg.norm((known.point - point).numpy(), ord=p)) == pytest.approx(known.distance)
        improved += known.distance < 0.9 * distance
    assert improved >= 1
