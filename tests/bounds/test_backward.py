"""The backward pass: equal to explicit matrices, and safe against its own rounding on networks made to hurt."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.backward import Shared, Sizes, both_ends, lowest, unit_ends
from robustcli.bounds.crown import backward_margins, crown
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import interval
from robustcli.bounds.relaxation import Lines, Rule, adaptive, lines, parallel
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Network, margin_rows
from robustcli.networks.rows import Rows
from tests.bounds.cases import BALLS, BOXES, nets, points
from tests.bounds.test_rounding_extremes import NETWORKS, maps, single
from tests.nets import STACKS, dense, randomised


def by_matrices(network: Network, ball: Ball, rows: Tensor, relaxed: list[Lines], upto: int) -> Tensor:
    """Lower bounds of rows @ (output of block `upto`) for one point, through the lines as given: rows [R, units]."""
    pairs = maps(network)
    value, row = rows @ pairs[upto][1], rows @ pairs[upto][0]
    for layer in range(upto - 1, -1, -1):
        lower, upper, gap = (part.double().flatten() for part in vars(relaxed[layer]).values())
        value = value + (row.clamp(max=0) * gap).sum(-1)
        row = row.clamp(min=0) * lower + row.clamp(max=0) * upper
        value, row = value + row @ pairs[layer][1], row @ pairs[layer][0]
    return value + ball.minimum(row.view(1, -1, *network.input_shape))[0]


def ready(network: Network, p: float, eps: float, box: tuple[float, float] | None, rule: Rule, count: int = 2):  # type: ignore[no-untyped-def]
    x, y = points(network, count)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, network.classes, x.dtype)
    layers = interval(network, ball, rows).layers
    return ball, rows, layers, [lines(bounds, rule(bounds)) for bounds in layers]


@pytest.mark.parametrize("rule", [adaptive, parallel])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_equals_explicit_matrices(
    which: int, p: float, eps: float, box: tuple[float, float] | None, rule: Rule
) -> None:
    """Margins from whole rows and hidden units from windows, lower and upper bounds."""
    network = nets()[which]
    ball, rows, layers, relaxed = ready(network, p, eps, box, rule)
    sizes = Sizes.of(network.blocks, ball, layers)
    for sized in (None, sizes):
        margins = lowest(Rows.whole(rows), network.blocks, Shared(relaxed), ball, sized).view(rows.shape[:2])
        for i in range(2):
            taken = [some.take(slice(i, i + 1)) for some in relaxed]
            truth = by_matrices(network, ball.take(slice(i, i + 1)), rows[i], taken, len(relaxed))
            torch.testing.assert_close(margins[i], truth, atol=1e-9, rtol=0)
    last = len(layers) - 1
    units = network.blocks[last].units
    image, unit = torch.ones(units, dtype=torch.long), torch.arange(units)
    lower, upper = unit_ends(image, unit, network.blocks[: last + 1], Shared(relaxed), ball)
    taken, alone, eye = [some.take(slice(1, 2)) for some in relaxed], ball.take(slice(1, 2)), torch.eye(units).double()
    torch.testing.assert_close(lower, by_matrices(network, alone, eye, taken, last), atol=1e-9, rtol=0)
    torch.testing.assert_close(upper, -by_matrices(network, alone, -eye, taken, last), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", STACKS)
def test_chosen_units_are_functionals_like_any_other(name: str) -> None:
    """Picked rows equal multiplied ones, both ends in one pass those of two."""
    network = STACKS[name]
    ball, _, layers, relaxed = ready(network, 2.0, 0.1, (0.0, 1.0), adaptive)
    generator = torch.Generator().manual_seed(0)
    for last in range(len(network.blocks)):
        blocks = network.blocks[: last + 1]
        unit = torch.randint(blocks[-1].units, (9,), generator=generator)
        image = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 1])
        rows = Rows.units(blocks[-1].out_shape, image, unit, torch.float64)
        sizes = Sizes.of(blocks, ball, layers)
        lower, upper = both_ends(rows, blocks, Shared(relaxed), ball, sizes)
        picked = unit_ends(image, unit, blocks, Shared(relaxed), ball, sizes)
        negated = Rows(image, -rows.values, rows.shape, rows.window)
        torch.testing.assert_close(lower, lowest(rows, blocks, Shared(relaxed), ball, sizes), atol=1e-12, rtol=0)
        torch.testing.assert_close(upper, -lowest(negated, blocks, Shared(relaxed), ball, sizes), atol=1e-12, rtol=0)
        torch.testing.assert_close(torch.stack(picked), torch.stack([lower, upper]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_parallel_slopes_give_the_kw_dual(which: int, p: float, eps: float, box: tuple[float, float] | None) -> None:
    network = nets()[which]
    x, y = points(network, 3)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    found = dual(network, ball, rows, outward=False)
    mine = backward_margins(network, ball, rows, found.layers, parallel, outward=False)
    torch.testing.assert_close(mine, found.margins, rtol=1e-9, atol=1e-12)
    outward = backward_margins(network, ball, rows, found.layers, parallel)
    assert (outward < mine).all()
    assert (mine - outward).max() < 1e-9


@pytest.mark.parametrize("rule", [adaptive, parallel])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), [*BALLS, (math.inf, 1e-7)])
@pytest.mark.parametrize("name", NETWORKS)
def test_widened_float32_passes_hold(
    name: str, p: float, eps: float, box: tuple[float, float] | None, rule: Rule
) -> None:
    """Against float64 with the very same lines: what float32 lost must be less than what was added."""
    rough = single(NETWORKS[name]())
    exact = rough.double()
    x = torch.rand(1, *rough.input_shape, generator=torch.Generator().manual_seed(2)).double().float()
    rows, _ = margin_rows(exact(x.double()).argmax(1), 3, torch.float32)
    ball = Ball(x, torch.tensor([eps]), p, box)
    layers = interval(rough, ball, rows).layers
    relaxed = [lines(bounds, rule(bounds)) for bounds in layers]
    sizes = Sizes.of(rough.blocks, ball, layers)
    found = lowest(Rows.whole(rows), rough.blocks, Shared(relaxed), ball, sizes).double()
    assert found.isfinite().all()
    wide = Ball(x.double(), torch.tensor([eps]).double(), p, box)
    assert (found <= by_matrices(exact, wide, rows[0].double(), relaxed, len(relaxed))).all()
    for last in range(len(layers)):
        blocks, units = rough.blocks[: last + 1], rough.blocks[last].units
        unit = torch.arange(units)
        lower, upper = unit_ends(torch.zeros_like(unit), unit, blocks, Shared(relaxed), ball, sizes)
        eye = torch.eye(units, dtype=torch.float64)
        assert (lower.double() <= by_matrices(exact, wide, eye, relaxed, last)).all()
        assert (upper.double() >= -by_matrices(exact, wide, -eye, relaxed, last)).all()


def test_rows_that_cancel_in_the_middle_are_counted() -> None:
    """Large weights whose products cancel: values below, above, and the rows at the input are all of size 1."""
    for seed in range(8):
        network = dense([3, 6, 5, 2], seed)
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(1, 3, generator=generator)
        first, second = network.layers[0], network.layers[2]
        first.weight.data.abs_()
        first.bias.data.abs_()
        second.weight.data *= 1e4
        difference = network.layers[4].weight[0] - network.layers[4].weight[1]
        second.weight.data[4] -= difference @ second.weight / difference[4]  # now difference @ weight is 0
        second.bias.data = 1 - second.weight @ first(x.double())[0].relu()
        rough = single(network)
        exact = rough.double()
        rows = torch.tensor([[[1.0, -1.0]]])
        wide = Ball(x.double(), torch.tensor([1e-6]).double(), math.inf)
        layers = [
            Bounds(bounds.lower.float() - 1e-3, bounds.upper.float() + 1e-3)
            for bounds in crown(exact, wide, rows.double()).layers
        ]
        relaxed = [lines(bounds, adaptive(bounds)) for bounds in layers]
        ball = Ball(x, torch.tensor([1e-6]), math.inf)
        sizes = Sizes.of(rough.blocks, ball, layers)
        found = lowest(Rows.whole(rows), rough.blocks, Shared(relaxed), ball, sizes).double()
        assert (found <= by_matrices(exact, wide, rows[0].double(), relaxed, 2)).all()


def test_products_below_the_number_range_are_counted() -> None:
    """A coefficient that underflows acts on a huge value: -1e-50 * 1e30 is lost whole in float32."""
    layers: list[dict[str, object]] = [{"type": "linear", "in": 1, "out": 1}, {"type": "relu"}]
    network = randomised({"input_shape": [1], "layers": [*layers, *layers, *layers[:1]]}, 0)
    for layer, weight in zip(network.layers[::2], (1e30, 1e-25, -1e-25), strict=True):
        layer.weight.data.fill_(weight)
        layer.bias.data.zero_()
    rough = single(network)
    ball, rows = Ball(torch.ones(1, 1), torch.zeros(1), math.inf), torch.ones(1, 1, 1)
    exact = float(network(torch.ones(1, 1, dtype=torch.float64)))
    assert exact < 0
    found = crown(rough, ball, rows)
    assert float(found.margins) <= exact
    assert float(backward_margins(rough, ball, rows, found.layers, parallel)) <= exact


@pytest.mark.parametrize("which", range(5))
def test_sizes_hold_all_values(which: int) -> None:
    """The number range of stacked convolutions, normalisation and batch normalisation included."""
    network = nets()[which]
    ball, _, layers, _ = ready(network, math.inf, 0.1, None, adaptive)
    sizes = Sizes.of(network.blocks, ball, layers)
    inside = ball.sample(200, torch.Generator().manual_seed(1))
    assert (inside.abs().amax(1) <= sizes.inputs).all()
    for value, size in zip(network.pre_activations(inside.flatten(0, 1)), sizes.values, strict=True):
        assert (value.view(2, 200, *value.shape[1:]).abs().amax(1) <= size).all()


def test_rounding_is_small_on_nets_of_real_size() -> None:
    """Below 1e-8 of a logit in float64 for the small CNN on inputs like MNIST."""
    layers: list[dict[str, object]] = [
        {"type": "conv2d", "in": 1, "out": 16, "kernel": 4, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "conv2d", "in": 16, "out": 32, "kernel": 4, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 1568, "out": 100},
        {"type": "relu"},
        {"type": "linear", "in": 100, "out": 10},
    ]
    network = randomised({"input_shape": [1, 28, 28], "layers": layers}, 0)
    ball, rows, found, relaxed = ready(network, math.inf, 0.02, (0.0, 1.0), adaptive)
    sizes = Sizes.of(network.blocks, ball, found)
    free = lowest(Rows.whole(rows), network.blocks, Shared(relaxed), ball)
    safe = lowest(Rows.whole(rows), network.blocks, Shared(relaxed), ball, sizes)
    assert (safe < free).all()
    assert (free - safe).max() < 1e-8 * free.abs().max()
