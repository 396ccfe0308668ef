"""Norms of all rows at once: the form that fits the layers, entries raised to a floor."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.networks.layers import Conv2d
from robustcli.networks.network import Block, Network
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.conventions import Convention
from robustcli.regions.distances import region_distances
from robustcli.regions.effective import effective
from robustcli.regions.forwards import Forwards, Sums
from robustcli.regions.row_norms import Backwards, hidden_norms, walker
from tests.nets import STACKS, convolutional, dense, randomised
from tests.regions.dense import distances as dense_distances
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


@pytest.mark.parametrize("side", [6, 7, 8, 12])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(4, 2, 1), (3, 1, 1), (5, 2, 2), (3, 2, 1), (2, 2, 0), (5, 3, 1), (5, 2, 1), (6, 3, 1), (7, 3, 3)],
)
def test_adjoint_up_to_order(side: int, kernel: int, stride: int, padding: int) -> None:
    layer = Conv2d((2, side, side), 3, kernel, stride, padding).double()
    rows = torch.randn(4, *layer.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = effective(Block([layer])).adjoint_unordered(rows)  # type: ignore[union-attr]
    assert torch.allclose(found.sort(1).values, layer.adjoint(rows).flatten(1).sort(1).values, atol=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_odd_stacks_agree_with_the_jacobian(seed: int) -> None:
    """Kernels, strides and paddings that leave the image in every way, narrow and oblong images."""
    generator = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    shape = (pick(1, 2), pick(1, 9), pick(1, 9))
    channels, height, width = shape
    layers: list[dict[str, object]] = []
    for _ in range(pick(1, 3)):
        kernel, stride, padding = pick(1, 5), pick(1, 3), pick(0, 3)
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        if min(rows, columns) < 1 or rows * columns > 60 or min(height, width) + 2 * padding < kernel:
            continue
        sizes = {"kernel": kernel, "stride": stride, "padding": padding}
        layers += [{"type": "conv2d", "in": channels, "out": 2, **sizes}, {"type": "relu"}]
        channels, height, width = 2, rows, columns
    head = [{"type": "linear", "in": channels * height * width, "out": 4}, {"type": "relu"}]
    head += [{"type": "linear", "in": 4, "out": 3}]
    network = randomised({"input_shape": list(shape), "layers": [*layers, {"type": "flatten"}, *head]}, seed)
    points, labels = points_of(network, 2), torch.tensor([0, 1])
    for q in (1.0, 2.0, math.inf, 21.0):
        boundary, decision = dense_distances(network, points, labels, q)
        (found,) = region_distances(network, points, labels, [dual(q)])
        assert torch.allclose(found.boundary, boundary, rtol=1e-9, atol=1e-12)
        assert torch.allclose(found.decision, decision, rtol=1e-9, atol=1e-12)
