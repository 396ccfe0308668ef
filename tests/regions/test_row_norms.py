"""Norms of all rows at once: the form that fits the layers, entries raised to a floor."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.networks.layers import Conv2d
from robustcli.networks.network import Block, Network
from robustcli.regions.affine import Region
from robustcli.regions.conventions import Convention
from robustcli.regions.effective import effective
from robustcli.regions.forwards import Forwards, Sums
from robustcli.regions.row_norms import Backwards, hidden_norms, walker
from tests.nets import STACKS, convolutional, dense
from tests.regions.dense import jacobians
from tests.regions.test_affine import points_of


def test_every_form_is_tested() -> None:
    """`test_distances` compares all of STACKS with the Jacobian."""
    forms = {name: type(walker(net, Sums([1.0], 0, 1), torch.float64)) for name, net in STACKS.items()}
    assert {forms.pop(name) for name in ("pooling", "filters with gaps")} == {Backwards}
    assert set(forms.values()) == {Forwards}


@pytest.mark.parametrize("network", [dense([40, 60, 50, 3], 1), convolutional(0, side=12), *STACKS.values()])
def test_low_precision_is_near(network: Network) -> None:
    region = Region.of(network, points_of(network, 3))
    exact, low = (hidden_norms(region, [1.0, 2.0, math.inf], products=d) for d in (None, torch.bfloat16))
    for a, b in zip(exact, low, strict=True):
        assert torch.allclose(a, b.double(), rtol=0.03)


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("name", [name for name in STACKS if name != "no hidden layer"])
def test_floor(name: str, q: float) -> None:
    """Entries of the layers above the first count at least the floor, structural zeros too."""
    network = STACKS[name]
    points = points_of(network, 2)
    region = Region.of(network, points)
    (hidden,) = hidden_norms(region, [q], convention=Convention(0.3))
    for row, point in enumerate(points):
        *rows, _ = jacobians(network, point)
        raised = [rows[0], *(part.abs().clamp(min=0.3) for part in rows[1:])]
        expected = torch.linalg.vector_norm(torch.cat(raised), ord=q, dim=1)
        assert torch.allclose(hidden[row], expected, atol=1e-12)


@pytest.mark.parametrize("side", [6, 7, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 1), (5, 2, 2), (3, 2, 1), (2, 2, 0), (5, 3, 1)]
)
def test_adjoint_up_to_order(side: int, kernel: int, stride: int, padding: int) -> None:
    layer = Conv2d((2, side, side), 3, kernel, stride, padding).double()
    rows = torch.randn(4, *layer.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = effective(Block([layer])).adjoint_unordered(rows)  # type: ignore[union-attr]
    assert torch.allclose(found.sort(1).values, layer.adjoint(rows).flatten(1).sort(1).values, atol=1e-12)
