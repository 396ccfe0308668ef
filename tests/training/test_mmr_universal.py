"""MMR-Universal: golden values, both selections, schedules."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robustcli.recipes.methods import Conventions, MaximumMarginUniversal, NearestUnits
from robustcli.training.hinges import tie_offsets
from robustcli.training.mmr_universal import MaximumMarginUniversal as Objective
from robustcli.training.objective import Moment
from tests.nets import convolutional, golden_network


def settings(**more: object) -> MaximumMarginUniversal:
    fixed = {"name": "mmr-universal", "lmbd_l1": 1, "lmbd_linf": 2, "gamma_l1": 0.5, "gamma_linf": 0.3}
    return MaximumMarginUniversal.model_validate({**fixed, **more})


def moment(epoch: int = 100) -> Moment:
    return Moment(epoch, 100, 0, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("divisor", "decision"), [("others", 0.942857), ("classes", 0.628571)])
@pytest.mark.parametrize("selection", ["union", "separate"])
def test_golden_values(selection: str, divisor: str, decision: float) -> None:
    network, x, label = golden_network()
    conventions = Conventions(tie_noise=0, decision_divisor=divisor)
    chosen = settings(selection=selection, nearest=NearestUnits(start=2 / 7, end=2 / 7), conventions=conventions)
    parts = Objective(chosen, torch.zeros(7))(network, x, label, moment()).parts
    assert float(parts["boundary"]) == pytest.approx(2.730762, abs=1e-6)
    assert float(parts["decision"]) == pytest.approx(decision, abs=1e-6)


def test_the_loss() -> None:
    network, x, label = golden_network()
    chosen = settings(nearest=NearestUnits(start=2 / 7, end=2 / 7), conventions=Conventions(tie_noise=0))
    made = Objective(chosen, tie_offsets(network, chosen.conventions, 0))
    entropy = float(F.cross_entropy(network(x), label))
    for epoch, share in ((1, 0.1), (100, 1.0)):
        loss = made(network, x, label, moment(epoch))
        assert float(loss.total) == pytest.approx(entropy + share * (2.730762 + 0.628571), abs=1e-5)


def test_gradients_reach_every_weight_and_are_finite() -> None:
    network = convolutional(0).requires_grad_(True)
    points = torch.rand(5, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = Objective(settings(gamma_l1=3.0), tie_offsets(network, Conventions(), 0))
    made(network, points, torch.arange(5) % 4, moment()).total.backward()
    for weight in network.parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0
