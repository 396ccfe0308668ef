"""Linear pieces: the affine map of any pattern, its constraints, rounding errors and norms, under flips of bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.affine import Region, all_unit_rows
from robustcli.regions.cuts import nearest
from robustcli.regions.pieces import Piece
from tests.nets import convolutional, dense, golden_network
from tests.oracle import nearest_in_polytope
from tests.regions.test_affine import points_of


def piece_of(network: Network, point: torch.Tensor, label: int, p: float) -> Piece:
    """The piece of a point [*input_shape]."""
    masks = tuple(Region.of(network, point.unsqueeze(0)).masks)
    bare = Piece(network, masks, point.unsqueeze(0), torch.tensor([label]), dual(p), np.zeros(network.hidden_units))
    bare.norms[:] = bare.bounded_norms(range(network.hidden_units))
    return bare


def test_affine_map_is_the_network_on_its_piece() -> None:
    network = convolutional(3)
    point = points_of(network, 1)[0]
    piece = piece_of(network, point, 1, 2.0)
    *hidden, logits = network.pre_activations(point.unsqueeze(0))
    values = torch.cat([value.flatten() for value in hidden]).numpy()
    assert piece.values == pytest.approx(values, abs=1e-12)
    assert (piece.signs == np.where(values > 0, 1, -1)).all()
    assert piece.margins == pytest.approx((logits[0, 1] - logits[0, [0, 2, 3]]).numpy(), abs=1e-12)
    move = 1e-9 * np.random.default_rng(0).normal(size=point.numel())
    moved = network.pre_activations(point.unsqueeze(0) + torch.from_numpy(move).view_as(point))
    assert piece.at(move)[0] == pytest.approx(torch.cat([v.flatten() for v in moved[:-1]]).numpy(), abs=1e-14)
    assert not piece.impossible


@pytest.mark.parametrize("network", [convolutional(5), dense([3, 5, 4, 4, 2], 1)], ids=["conv", "dense"])
def test_a_flipped_bit_changes_what_it_must(network: Network) -> None:
    piece = piece_of(network, points_of(network, 1)[0], 0, math.inf)
    piece.rows(range(network.hidden_units))
    rng = np.random.default_rng(0)
    for unit in rng.choice(network.hidden_units, 8).tolist():
        other = piece.flipped(unit)
        assert other.flips == {unit}
        assert (other.signs != piece.signs).nonzero()[0].tolist() == [unit]
        rows = all_unit_rows(other.region)[0].flatten(1).numpy()
        assert np.array([other.rows([j])[0] for j in range(len(rows))]) == pytest.approx(rows, abs=1e-13)
        exact = np.abs(rows).sum(1)
        assert (other.norms >= exact).all()
        assert other.norms == pytest.approx(exact, rel=1e-9)
        move = rng.normal(size=piece.point.numel())
        assert other.at(move)[0] == pytest.approx(other.values + rows @ move, abs=1e-9)
        assert other.at(move)[1] == pytest.approx(other.margins + other.decisions @ move, abs=1e-9)
        back = other.flipped(unit)
        assert back.flips == frozenset()
        assert back.values == pytest.approx(piece.values, abs=1e-13)
        assert back.norms == pytest.approx(piece.norms, rel=1e-12)


def test_errors_cover_another_order_of_summation() -> None:
    network = dense([40, 30, 20, 3], 2)
    piece = piece_of(network, points_of(network, 1)[0], 0, 2.0)
    other = piece.flipped(3).flipped(35)
    x = other.point.flatten().numpy()
    weights = [(block.layers[0].weight.numpy(), block.layers[0].bias.numpy()) for block in network.blocks]
    values, masks = [], [mask.flatten().numpy() for mask in other.masks]
    for position, (matrix, bias) in enumerate(weights):
        z = x if position == 0 else masks[position - 1] * values[-1]
        values.append(np.array([math.fsum([*(row[::-1] * z[::-1]), b]) for row, b in zip(matrix, bias, strict=True)]))
    difference = np.abs(np.concatenate(values[:-1]) - other.values)
    assert (difference <= other.value_errors).all()
    assert difference.max() > 0
    assert (other.value_errors < 1e-10).all()


def test_constant_units() -> None:
    """A dead first layer makes the second constant: never a boundary, and a wrong bit makes the piece impossible."""
    network = dense([2, 3, 2, 2])
    network.layers[0].weight.data.zero_()
    network.layers[0].bias.data.fill_(-1.0)
    network.layers[2].bias.data = torch.tensor([0.5, -0.5], dtype=torch.float64)
    piece = piece_of(network, torch.tensor([0.2, 0.7], dtype=torch.float64), 0, 2.0)
    assert (piece.norms == 0).all()
    assert np.isinf(piece.ahead).all()
    assert piece.flipped(3).impossible
    assert math.isinf(nearest(piece.flipped(3), 2.0, None).lower)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_nearest_point_of_a_piece(p: float, box: tuple[float, float] | None) -> None:
    """Cutting planes against one program with all rows."""
    network, x, label = golden_network()
    first = piece_of(network, x[0], int(label), p)
    met, missed = 0, 0
    for flips in ((), (2,), (4,), (0, 2), (1, 5), (2, 4, 6)):
        piece = first
        for unit in flips:
            piece = piece.flipped(unit)
        rows = -piece.signs[:, None] * piece.rows(range(7))
        limits = piece.signs * piece.values
        for target in (None, 0, 1):
            extra = [] if target is None else [piece.decisions[target]]
            most = limits if target is None else np.append(limits, -piece.margins[target])
            all_rows = np.vstack([rows, *extra])
            point = x[0].numpy()
            true = nearest_in_polytope(all_rows, most + all_rows @ point, point, p, box)
            found = nearest(piece, p, box, target)
            assert found.lower <= true
            if math.isinf(true):
                missed += 1
                assert found.move is None or found.lower > 1e5
                continue
            met += 1
            assert found.lower == pytest.approx(true, abs=1e-9)
            assert found.move is not None
            assert np.linalg.norm(found.move, ord=p) == pytest.approx(true, abs=1e-8)
            assert (all_rows @ found.move <= most + 1e-8).all()
    assert met >= 5
    assert missed > 0
