"""What bounds make of hidden bounds that are known: they are kept and save work, and NaN among them proves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds import crown as crown_module
from robustcli.bounds import dual as dual_module
from robustcli.bounds.crown import crown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.bounds.interval import first_layer, interval, widen
from robustcli.bounds.types import Bounds
from robustcli.networks.network import Block, Network, margin_rows
from tests.bounds.cases import BALLS, BOXES, Box, nets, points, question
from tests.bounds.references import alone
from tests.nets import convolutional, dense


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("bound", [interval, dual])
def test_what_is_known_is_kept_and_sound(
    bound, which: int, p: float, eps: float, box: tuple[float, float] | None
) -> None:  # type: ignore[no-untyped-def]
    """Bounds as tight as sampling allows, at every second unit: all values stay inside what comes of them."""
    network = nets()[which]
    x, y = points(network, 3)
    ball = Ball.around(x, eps, p, box)
    rows, _ = margin_rows(y, network.classes, torch.float64)
    inside = torch.cat([x.unsqueeze(1), ball.sample(300, torch.Generator().manual_seed(1))], 1)
    values = [value.view(3, 301, *value.shape[1:]) for value in network.pre_activations(inside.flatten(0, 1))]
    told = []
    for value in values[:-1]:
        every = (torch.arange(value[0, 0].numel()) % 2 == 0).view(value.shape[2:])
        wide = torch.full_like(value[:, 0], math.inf)
        told.append(Bounds(torch.where(every, value.amin(1), -wide), torch.where(every, value.amax(1), wide)))
    free, found = bound(network, ball, rows), bound(network, ball, rows, known=told)
    for mine, theirs, value in zip(found.layers, told, values, strict=False):
        assert (mine.lower >= theirs.lower).all()
        assert (mine.upper <= theirs.upper).all()
        assert (mine.lower <= value.amin(1)).all()
        assert (mine.upper >= value.amax(1)).all()
    margins = (values[-1].unsqueeze(2) * rows.unsqueeze(1)).sum(-1).amin(1)
    assert (found.margins <= margins).all()
    assert which == 1 or (found.margins > free.margins).any()  # the logits of net 1 are constant


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("p", "eps"), BALLS)
@pytest.mark.parametrize("which", range(5))
def test_order_relations(which: int, p: float, eps: float, box: Box) -> None:
    """What is known is never given away; CROWN-IBP is at least interval arithmetic."""
    network = nets()[which]
    ball, rows = question(network, p, eps, box)
    loose = interval(network, ball, rows)
    assert (crown_ibp(network, ball, rows).margins >= loose.margins).all()
    kw = dual(network, ball, rows)
    for bound in (interval, dual, crown, crown_ibp):
        for told in (loose.layers, kw.layers):
            for mine, theirs in zip(bound(network, ball, rows, known=told).layers, told, strict=True):
                assert (mine.lower >= theirs.lower).all()
                assert (mine.upper <= theirs.upper).all()
    # Tighter hidden bounds never cost interval arithmetic anything (CROWN's slopes may change for the worse).
    assert (interval(network, ball, rows, known=kw.layers).margins >= loose.margins - 1e-9).all()


@pytest.mark.parametrize("which", range(5))
def test_the_dual_first_is_the_better_of_both_at_every_unit(which: int) -> None:
    network = nets()[which]
    ball, rows = question(network, math.inf, 0.05, (0.0, 1.0))
    kw, found = dual(network, ball, rows), crown(network, ball, rows)
    again = crown(network, ball, rows, known=kw.layers)
    assert torch.equal(found.margins, again.margins)
    second, single_handed = found.layers[1], alone(network, ball, rows).layers[1]
    open_units = second.unstable
    assert (second.lower >= torch.maximum(kw.layers[1].lower, single_handed.lower) - 1e-9)[open_units].all()
    assert (second.upper <= torch.minimum(kw.layers[1].upper, single_handed.upper) + 1e-9)[open_units].all()


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("make", [lambda: dense([6, 20, 8, 3], 3), lambda: convolutional(1, side=9, channels=2)])
def test_units_that_quick_bounds_settle_change_no_margin(
    make: Callable[[], Network], p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer of boxed l1 and l2 balls is searched only for units that stay open."""
    network = make()
    points = torch.rand(4, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, _ = margin_rows(torch.arange(4) % network.classes, network.classes, torch.float64)
    ball = Ball.around(points, 0.4, p, (0.0, 1.0))
    found = dual_module.dual(network, ball, rows)
    whole = first_layer(network.blocks[0], ball)

    def exact(block: Block, ball: Ball, middle: Tensor, error: Tensor | None, known: Bounds | None) -> Bounds:
        assert error is not None
        assert known is None
        return widen(whole, error)

    monkeypatch.setattr(dual_module, "first_bounds", exact)
    assert torch.allclose(found.margins, dual_module.dual(network, ball, rows).margins, rtol=1e-12)
    assert (found.layers[0].lower <= whole.lower).all()
    assert (found.layers[0].upper >= whole.upper).all()


def test_a_first_layer_that_is_known_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = dense([6, 20, 8, 3], 3)
    x, y = points(network, 4)
    ball = Ball.around(x, 0.4, 2.0, (0.0, 1.0))
    rows, _ = margin_rows(y, 3, torch.float64)
    once = dual(network, ball, rows)
    monkeypatch.setattr(dual_module, "unit_reaches", None)
    with pytest.raises(TypeError):
        dual(network, ball, rows)
    again = dual(network, ball, rows, known=once.layers)
    torch.testing.assert_close(again.margins, once.margins, atol=1e-12, rtol=0)


def test_units_that_are_known_to_be_stable_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = convolutional(3, normalise=True, channels=2)
    ball, rows = question(network, math.inf, 0.05, (0.0, 1.0))
    asked = []

    def counting(image: Tensor, unit: Tensor, *rest):  # type: ignore[no-untyped-def]
        asked.append(len(unit))
        return ends(image, unit, *rest)

    ends = crown_module.unit_ends
    monkeypatch.setattr(crown_module, "unit_ends", counting)
    alone(network, ball, rows)
    before = sum(asked)
    kw = dual(network, ball, rows).layers
    asked.clear()
    crown(network, ball, rows, known=kw)
    assert sum(asked) <= sum(int(layer.unstable.sum()) for layer in kw[1:]) < before


def test_known_bounds_that_are_no_numbers_prove_nothing() -> None:
    network = dense([3, 4, 5, 3], 1)
    ball, rows = question(network, math.inf, 0.01, None, 2)
    for position in range(2):
        for bound in (interval, dual, crown, crown_ibp):
            told = [Bounds(b.lower.clone(), b.upper.clone()) for b in dual(network, ball, rows).layers]
            told[position].lower.fill_(math.nan)
            told[position].upper.fill_(math.nan)
            assert not (bound(network, ball, rows, known=told).margins > 0).any()
