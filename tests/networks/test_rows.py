"""Rows pulled back through windows equal rows pulled back through the whole map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcli.networks.network import Network
from robustcli.networks.rows import Rows, by_image
from tests.nets import randomised


def tower(side: int, kernels: list[tuple[int, int, int]], width: int = 2) -> Network:
    layers: list[dict[str, object]] = []
    channels = 2
    for kernel, stride, padding in kernels:
        layers += [
            {"type": "conv2d", "in": channels, "out": width, "kernel": kernel, "stride": stride, "padding": padding},
            {"type": "relu"},
        ]
        channels = width
    probe = Network.from_description({"input_shape": [2, side, side], "layers": [*layers[:-1], {"type": "flatten"}]})
    size = probe.blocks[-1].units
    head = [{"type": "flatten"}, {"type": "linear", "in": size, "out": 3}]
    return randomised({"input_shape": [2, side, side], "layers": [*layers, *head]}, side)


TOWERS = [
    (12, [(4, 2, 1), (4, 2, 1)]),
    (13, [(5, 2, 2), (3, 2, 1), (3, 1, 1)]),
    (11, [(3, 1, 1), (4, 2, 0), (3, 2, 2)]),
    (9, [(4, 2, 0), (2, 1, 0)]),
]


@pytest.mark.parametrize(("side", "kernels"), TOWERS)
def test_windows_equal_the_adjoint(side: int, kernels: list[tuple[int, int, int]]) -> None:
    network = tower(side, kernels)
    blocks = network.blocks[: len(kernels)]
    generator = torch.Generator().manual_seed(0)
    slopes = [torch.rand(2, *b.out_shape, generator=generator, dtype=torch.float64) for b in blocks]
    total = blocks[-1].units
    image = torch.tensor([0] * total + [1] * total)
    unit = torch.arange(total).repeat(2)
    rows = Rows.units(blocks[-1].out_shape, image, unit, torch.float64)
    whole = torch.eye(total, dtype=torch.float64).view(-1, *blocks[-1].out_shape).repeat(2, *[1] * 3)
    assert rows.window is not None
    for depth in range(len(blocks) - 1, -1, -1):
        rows, whole = rows.through(blocks[depth]), blocks[depth].adjoint(whole)
        torch.testing.assert_close(rows.inside().dense().values, whole, atol=1e-12, rtol=0)
        if depth:
            rows = rows.times(slopes[depth - 1])
            whole = whole * slopes[depth - 1][image]
    maps = torch.rand(2, *network.input_shape, generator=generator, dtype=torch.float64)
    seen = (rows.values * rows.gather(maps)).flatten(1).sum(1)
    torch.testing.assert_close(seen, (whole * maps[image]).flatten(1).sum(1))


def test_padding_is_not_read() -> None:
    """A window that hangs over the border has no coefficients there (a truncated filter, not the full one)."""
    network = tower(8, [(4, 2, 1)])
    block = network.blocks[0]
    corner = Rows.units(block.out_shape, torch.tensor([0]), torch.tensor([0]), torch.float64).through(block).inside()
    full = network.layers[0].weight[0].abs().sum()
    assert corner.values.abs().sum() < full
    torch.testing.assert_close(corner.values.abs().sum(), network.layers[0].weight[0, :, 1:, 1:].abs().sum())


def test_vector_rows() -> None:
    network = tower(8, [(4, 2, 1)])
    block = network.blocks[1]
    rows = Rows.units(block.out_shape, torch.tensor([0, 1]), torch.tensor([2, 0]), torch.float64).through(block)
    assert rows.window is None
    assert tuple(rows.values.shape[1:]) == network.blocks[0].out_shape
    assert math.prod(rows.shape) == block.layers[-1].in_shape[0]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=60, unique=True), st.integers(1, 20)
)
def test_portions_by_image(pairs: list[tuple[int, int]], limit: int) -> None:
    """Every unit once, in order, no portion larger than asked, images counted from the first of the portion."""
    units = torch.tensor(sorted(pairs))
    portions = list(by_image(units, limit))
    again = [torch.stack([image + images.start, unit], 1) for images, image, unit in portions]
    assert torch.equal(torch.cat(again), units)
    for images, image, unit in portions:
        assert len(unit) <= limit
        assert image.min() == 0
        assert image.max() == images.stop - images.start - 1
    assert len(portions) <= 2 * math.ceil(len(units) / limit) + 1
