"""Learning rates per epoch: the golden values of the papers' recipes."""

from __future__ import annotations

import pytest
import torch

from robustcli.recipes.model import Adam, Constant, Drop, Halving, Sgd, Training
from robustcli.training.schedules import learning_rate, optimiser


@pytest.mark.parametrize(("epoch", "rate"), [(1, 1e-3), (89, 1e-3), (90, 1e-4), (100, 1e-4)])
def test_the_drop_of_000_covers_the_last_eleven_of_100_epochs(epoch: int, rate: float) -> None:
    assert learning_rate(Training(epochs=100), epoch) == pytest.approx(rate)


def test_every_share_drops_once() -> None:
    training = Training(epochs=10, schedule=Drop(shares=[0.3, 0.7], factor=0.1))
    rates = [learning_rate(training, epoch) for epoch in range(1, 11)]
    assert rates == pytest.approx([1e-3] * 2 + [1e-4] * 4 + [1e-5] * 4)


@pytest.mark.parametrize("epochs", range(1, 200))
def test_shares_are_not_lost_to_rounding(epochs: int) -> None:
    training = Training(epochs=epochs, schedule=Drop(shares=[0.7], factor=0.1))
    dropped = [learning_rate(training, epoch) < 5e-4 for epoch in range(1, epochs + 1)]
    assert dropped == [10 * epoch >= 7 * epochs for epoch in range(1, epochs + 1)]


def test_kw_halves_every_ten_epochs_after_the_ramp_of_twenty() -> None:
    training = Training(epochs=60, schedule=Halving(name="every", every=10, after=20))
    rates = {epoch: learning_rate(training, epoch) for epoch in (1, 20, 30, 31, 40, 41, 60)}
    assert rates == pytest.approx({1: 1e-3, 20: 1e-3, 30: 1e-3, 31: 5e-4, 40: 5e-4, 41: 2.5e-4, 60: 1.25e-4})


def test_constant_stays() -> None:
    training = Training(epochs=5, schedule=Constant(name="constant"))
    assert {learning_rate(training, epoch) for epoch in range(1, 6)} == {1e-3}


def test_optimisers_have_the_papers_constants() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    adam = optimiser(Training(optimiser=Adam(lr=5e-5)), [weight]).defaults
    assert (adam["betas"], adam["eps"], adam["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)
    sgd = optimiser(Training(optimiser=Sgd(name="sgd", lr=0.05, weight_decay=5e-4)), [weight]).defaults
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.05, 0.9, 5e-4, False)
