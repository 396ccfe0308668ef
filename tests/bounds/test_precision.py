"""Rows in float32 for a network in float64: every bound holds, loses little, and costs no verdict."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds import dual as dual_module
from robustcli.bounds.backward import Shared, lowest, unit_ends
from robustcli.bounds.crown import crown
from robustcli.bounds.dual import Relaxation, RoundedPull, dual, parallelogram
from robustcli.bounds.interval import interval, replaced
from robustcli.bounds.precision import RowBound, faithful, in_single, thinly_open, trusted
from robustcli.bounds.relaxation import Lines, adaptive, lines
from robustcli.bounds.sizes import Sizes
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.network import Network
from robustcli.networks.rows import Rows
from tests.bounds.cases import BALLS, BOXES, Box, nets, question
from tests.bounds.test_rounding_extremes import NETWORKS, maps
from tests.nets import convolutional, dense

ROW_BOUNDS = [dual, crown]
EVERY = {f"net {place}": network for place, network in enumerate(nets())} | {
    name: make() for name, make in NETWORKS.items()
}


def single(network: Network) -> Network:
    return copy.deepcopy(network).float()


def below(pairs: list[tuple[Tensor, Tensor]], relaxed: list[Lines], ball: Ball, rows: Tensor, upto: int) -> Tensor:
    """Lower bounds of rows @ (output of block `upto`) for one ball through the lines given, by matrices in float64."""
    value, row = rows @ pairs[upto][1], rows @ pairs[upto][0]
    for layer in range(upto - 1, -1, -1):
        lower, upper, gap = (part.flatten() for part in vars(relaxed[layer]).values())
        value = value + (row.clamp(max=0) * gap).sum(-1)
        row = row.clamp(min=0) * lower + row.clamp(max=0) * upper
        value, row = value + row @ pairs[layer][1], row @ pairs[layer][0]
    return value + ball.minimum(row.view(1, -1, *ball.center.shape[1:]))[0]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), [*BALLS, (math.inf, 0.0), (math.inf, 1e-7)])
@pytest.mark.parametrize("name", EVERY)
def test_backward_rows_hold_and_lose_little(name: str, p: float, eps: float, box: Box) -> None:
    """Against the same lines in float64: below, by no more than some thousandths of what the ball can change."""
    network = EVERY[name]
    ball, rows = question(network, p, eps, box, 1)
    layers = interval(network, ball, rows).layers
    relaxed = [lines(bounds, adaptive(bounds), torch.float32) for bounds in layers]
    sizes, rough, pairs = Sizes.of(network.blocks, ball, layers), single(network), maps(network)
    for last, middle in enumerate(sizes.middle):
        blocks, functionals = rough.blocks[: last + 1], torch.eye(middle[0].numel(), dtype=torch.float64)
        unit = torch.arange(len(functionals))
        lower, upper = unit_ends(torch.zeros_like(unit), unit, blocks, Shared(relaxed), ball, sizes)
        if last == len(layers):
            whole = Rows.whole(functionals.unsqueeze(0))
            plain = lowest(whole, blocks, Shared(relaxed), ball, sizes, torch.float32)
            torch.testing.assert_close(plain, lower, rtol=1e-5, atol=2e-3 * float((middle.flatten() - lower).max()))
            assert (plain <= below(pairs, relaxed, ball, functionals, last)).all()
        for found, sign in ((lower, 1), (-upper, -1)):
            exact = below(pairs, relaxed, ball, sign * functionals, last)
            change = (sign * middle.flatten() - exact).abs()
            assert (found <= exact).all()
            assert (exact - found <= 5e-3 * change + 1e-9 * sizes.values[last].flatten() + 1e-30).all()


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), [*BALLS, (math.inf, 0.0), (math.inf, 1e-7)])
@pytest.mark.parametrize("name", EVERY)
def test_rows_of_the_dual_hold(name: str, p: float, eps: float, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the relaxations it used, by matrices in float64; open units only, the others have cheaper bounds."""
    network, used = EVERY[name], list[Relaxation]()

    class Watched(RoundedPull):
        def through(self, relaxation: Relaxation, bounds: Bounds, middle: Tensor) -> Relaxation:
            used.append(super().through(relaxation, bounds, middle))
            return used[-1]

    monkeypatch.setattr(dual_module, "RoundedPull", Watched)
    ball, rows = question(network, p, eps, box, 1)
    found = dual(network, ball, rows, rounded=single(network))
    relaxed, pairs = [Lines(each.slope, each.slope, each.gap) for each in used], maps(network)
    assert (found.margins[0] <= below(pairs, relaxed, ball, rows[0], len(relaxed))).all()
    for last, bounds in enumerate(found.layers):
        open_units = bounds.unstable.flatten()
        eye = torch.eye(len(open_units), dtype=torch.float64)[open_units]
        assert (bounds.lower.flatten()[open_units] <= below(pairs, relaxed, ball, eye, last)).all()
        assert (bounds.upper.flatten()[open_units] >= -below(pairs, relaxed, ball, -eye, last)).all()


@pytest.mark.parametrize("bound", ROW_BOUNDS)
def test_rows_that_cancel_are_counted(bound: RowBound) -> None:
    """Active units whose large weights nearly cancel: the row at the input is small, its rounding in float32 is not."""
    wrong = asked = 0
    for seed in range(60):  # how float32 rounds depends on the processor: some of many cancel badly on each
        network = dense([4, 6, 5, 2], seed)
        first, second, last = network.layers[::2]
        first.weight.data.abs_()
        first.bias.data.fill_(3.0)
        second.weight.data *= 1e4
        difference = last.weight[0] - last.weight[1]
        second.weight.data[4] -= difference @ second.weight / difference[4]
        second.weight.data[4] += 1e-4 * torch.randn(6, generator=torch.Generator().manual_seed(seed))
        second.bias.data = 1e6 - second.weight @ first(torch.full((1, 4), 0.5).double())[0]
        ball = Ball.around(torch.full((1, 4), 0.5, dtype=torch.float64), 0.2, math.inf, None)
        row = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
        found = bound(network, ball, row.unsqueeze(0), rounded=single(network))
        if any(bounds.unstable.any() for bounds in found.layers):
            continue
        asked += 1
        matrix = row @ last.weight @ second.weight @ first.weight
        value = network(ball.center) @ row[0]
        rough = (row.float() @ last.weight.float() @ second.weight.float()) @ first.weight.float()
        wrong += float(rough.abs().sum()) < float(matrix.abs().sum())
        assert float(found.margins) <= float(value - 0.2 * matrix.abs().sum())
    assert asked >= 40
    assert wrong > 0  # float32 alone would have claimed too much


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_lines_hold_exactly_for_slopes_of_float32(low: float, high: float) -> None:
    """Between rows in float32 and bounds in float64, also where the dual moves a given slope."""
    bounds = Bounds(torch.tensor([[-low]], dtype=torch.float64), torch.tensor([[high]], dtype=torch.float64))
    upper = lines(bounds, adaptive(bounds), torch.float32)
    ball = Ball(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), math.inf)
    network = single(dense([1, 1, 2]))
    pull = RoundedPull(network, ball)
    pull.lost(network.double().blocks[0], None)
    moved = pull.through(parallelogram(bounds), bounds, torch.zeros(1, 1, dtype=torch.float64))
    for slope, gap, slack in ((upper.upper, upper.gap, 0), (moved.slope, moved.gap, 1e-15 * (low + high))):
        assert slope == slope.float().double()
        exact = Fraction(float(slope)), Fraction(float(gap)) + Fraction(slack)
        assert exact[1] - exact[0] * Fraction(low) >= 0
        assert exact[0] * Fraction(high) + exact[1] >= Fraction(high)


def test_what_is_no_number_replaces_nothing() -> None:
    old = Bounds(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[1.0, 2.0, 3.0]]))
    found = replaced(old, torch.tensor([0, 2]), torch.tensor([math.nan, -0.5]), torch.tensor([0.5, math.nan]))
    assert found.lower.tolist() == [[-1.0, -2.0, -0.5]]
    assert found.upper.tolist() == [[0.5, 2.0, 3.0]]


@pytest.mark.parametrize("bound", ROW_BOUNDS)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_samples_are_inside_and_little_is_lost(which: int, p: float, eps: float, box: Box, bound: RowBound) -> None:
    network = nets()[which]
    ball, rows = question(network, p, eps, box)
    found, exact = in_single(bound)(network, ball, rows), bound(network, ball, rows)
    inside = ball.sample(200, torch.Generator().manual_seed(1))
    *values, logits = (value.view(3, 200, *value.shape[1:]) for value in network.pre_activations(inside.flatten(0, 1)))
    for bounds, value in zip(found.layers, values, strict=True):
        assert (bounds.lower <= value.amin(1)).all()
        assert (bounds.upper >= value.amax(1)).all()
    assert (found.margins <= torch.einsum("btk,bnk->bnt", rows, logits).amin(1)).all()
    change = (rows @ network(ball.middle()).unsqueeze(2)).squeeze(2) - exact.margins
    assert ((exact.margins - found.margins).abs() <= 5e-3 * change + 1e-9).all()


@pytest.mark.parametrize("bound", ROW_BOUNDS)
def test_batches_and_known_bounds(bound: RowBound) -> None:
    """One point alone is bounded as in a batch, up to float32; known bounds are kept."""
    network = convolutional(2)
    ball, rows = question(network, math.inf, 0.05, (0.0, 1.0), 4)
    together = in_single(bound)(network, ball, rows)
    for i in range(4):
        taken = in_single(bound)(network, ball.take(slice(i, i + 1)), rows[i : i + 1])
        torch.testing.assert_close(taken.margins[0], together.margins[i], rtol=1e-5, atol=1e-5)
    exact = bound(network, ball, rows)
    again = in_single(bound)(network, ball, rows, known=exact.layers)
    for bounds, told in zip(again.layers, exact.layers, strict=True):
        assert (bounds.lower >= told.lower).all()
        assert (bounds.upper <= told.upper).all()


@pytest.mark.parametrize("bound", ROW_BOUNDS)
def test_what_float32_could_cost_is_asked_again(bound: RowBound) -> None:
    """Logits moved so that one image's worst margin is positive by a hair: float32 cannot prove it, float64 does."""
    network = dense([6, 8, 7, 3], 1)
    ball, rows = question(network, math.inf, 0.05, None, 2)
    worst = bound(network, ball, rows).margins.amin(1)
    label = int(rows[0, 0].argmax())
    with torch.no_grad():
        network.layers[-1].bias[label] += 1e-9 - worst[0]
    rough = bound(network, ball, rows, rounded=single(network))
    found, exact = in_single(bound)(network, ball, rows), bound(network, ball, rows)
    assert rough.margins[0].amin() <= 0 < exact.margins[0].amin()
    assert found.margins[0].amin() > 0
    torch.testing.assert_close(found.margins[0], exact.margins[0], rtol=0, atol=1e-6)


def test_which_margins_are_thin() -> None:
    margins = torch.tensor([[0.1, 0.2], [0.1, -1e-3], [-1e-3, -1.0], [-1e-3, math.nan], [0.1, -math.inf], [0.0, 1.0]])
    found = thinly_open(margins, torch.ones(6, 2))
    assert found.tolist() == [False, True, False, True, True, True]


@pytest.mark.parametrize("bound", ROW_BOUNDS)
def test_numbers_beyond_float32_prove_nothing(bound: RowBound) -> None:
    """Weights whose products leave the range of float32 and come back: what float64 proves is proved, and no more."""
    network = dense([4, 6, 5, 3], 3)
    for layer, factor in zip(network.layers[::2], (1e30, 1e30, 1e-60), strict=True):
        layer.weight.data *= factor
        layer.bias.data *= factor
    ball, rows = question(network, math.inf, 0.01, None)
    rough = bound(network, ball, rows, rounded=single(network))
    assert not (rough.margins > 0).any()
    exact = bound(network, ball, rows)
    found = in_single(bound)(network, ball, rows)
    assert (exact.margins > 0).any()
    assert torch.equal(found.margins > 0, exact.margins > 0)


def test_only_where_float32_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Network | None]()

    def bound(network: Network, ball: Ball, rows: Tensor, **options: object) -> MarginBounds:
        asked.append(options["rounded"])  # type: ignore[arg-type]
        return interval(network, ball, rows)

    network = dense([4, 5, 3], 1)
    ball, rows = question(network, math.inf, 1e-3, None)
    cpu = torch.device("cpu")
    in_single(bound)(network, ball, rows)
    assert asked[0] is not None and asked[0].dtype == torch.float32  # noqa: PT018
    in_single(bound)(network, ball, rows, outward=False)
    in_single(bound)(single(network), ball.to(torch.float32), rows.float())
    assert trusted(cpu)
    assert not trusted(torch.device("cuda"))
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    assert not trusted(cpu)
    in_single(bound)(network, ball, rows)
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert not trusted(cpu)
    in_single(bound)(network, ball, rows)
    assert asked[1:] == [None] * 4


def one_unit(weight: float, above: float, shift: float, norm: dict[str, float] | None = None) -> Network:
    """relu(weight x + shift) times `above` against a constant, float64; batch normalisation on wish."""
    middle = [] if norm is None else [{"type": "batchnorm", "guard": norm["guard"]}]
    network = Network.from_description(
        {
            "input_shape": [1],
            "layers": [
                {"type": "linear", "in": 1, "out": 1},
                *middle,
                {"type": "relu"},
                {"type": "linear", "in": 1, "out": 2},
            ],
        }
    ).double()
    with torch.no_grad():
        network.layers[0].weight.fill_(weight)
        network.layers[0].bias.fill_(0.0 if norm else shift)
        if norm:
            network.layers[1].running_var.fill_(norm["var"])
            network.layers[1].weight.fill_(math.sqrt(norm["var"] + norm["guard"]))
            network.layers[1].bias.fill_(shift)
        network.layers[-1].weight.copy_(torch.tensor([[above], [0.0]], dtype=torch.float64))
        network.layers[-1].bias.copy_(torch.tensor([-above * shift + above * weight * 0.995, 0.0], dtype=torch.float64))
    return network.eval()


@pytest.mark.parametrize("bound", [dual, crown])
@pytest.mark.parametrize(
    ("network", "eps"),
    [
        (one_unit(1.0, 1.0, 10.0, {"guard": 1e-45, "var": 1e-45}), 1.0),
        (one_unit(1e-44, 1e38, 2e-44), 1.0),
    ],
)
def test_numbers_below_the_range_of_float32(bound: RowBound, network: Network, eps: float) -> None:
    """They lose more than a share of themselves on the way to float32: such networks keep rows in float64."""
    ball = Ball.around(torch.zeros(1, 1, dtype=torch.float64), eps, math.inf, None)
    rows = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    corners = torch.tensor([[-eps], [eps]], dtype=torch.float64)
    logits = network(corners)
    assert float(in_single(bound)(network, ball, rows).margins) <= float((logits[:, 0] - logits[:, 1]).min())
    assert not faithful(network, copy.deepcopy(network).float())


def test_arithmetic_that_is_not_trusted() -> None:
    """Small numbers taken for 0, products that may lose bits."""
    here = torch.device("cpu")
    before = trusted(here)
    try:
        if torch.set_flush_denormal(True):
            assert not trusted(here)
    finally:
        torch.set_flush_denormal(False)
    switch = torch.backends.mkldnn.conv
    old = switch.fp32_precision
    try:
        switch.fp32_precision = "bf16"
        assert not trusted(here)
    finally:
        switch.fp32_precision = old
    assert trusted(here) == before
