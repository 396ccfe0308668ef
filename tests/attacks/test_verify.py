"""The judge of attacks: success is a negative float64 margin inside ball and box, found anew, whatever was claimed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from robustcli.attacks.settings import PgdSettings
from robustcli.attacks.verify import confirm
from robustcli.balls import Ball
from robustcli.evaluation.attack import Attacker, Settings
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import margins
from robustcli.results.witnesses import Witness, store
from tests.nets import dense, golden_network


def test_a_point_that_is_classified_correctly_is_no_witness() -> None:
    network, x, label = golden_network()
    found = confirm(network, Ball.around(x, 0.2, math.inf, None), label, x)
    assert float(found.margins[0]) > 0
    assert not bool(found.success[0])


def test_a_tie_is_no_witness() -> None:
    network = dense([2, 2], 0)
    network.layers[0].weight.data.zero_()
    network.layers[0].bias.data.zero_()
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    found = confirm(network, Ball.around(x, 0.1, 2.0, None), torch.tensor([0]), x)
    assert float(found.margins[0]) == 0
    assert not bool(found.success[0])


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_what_lies_outside_is_moved_inside_before_it_is_judged(p: float) -> None:
    network, x, label = golden_network()
    ball = Ball.around(x, 0.2, p, (0.0, 1.0))
    found = confirm(network, ball, label, x + 40.0)
    assert bool(ball.contains(found.points).all())
    assert not bool(confirm(network, ball, label, torch.full_like(x, math.nan)).success[0])


def test_a_stale_witness_is_not_accepted(tmp_path: Path) -> None:
    """A stored file may claim what it likes: the margin counts that the forward pass gives now."""
    network, x, label = golden_network()
    inside = x + 1e-7
    item = Witness(
        point=x[0].numpy(),
        witness=inside[0].numpy(),
        index=0,
        label=int(label),
        margin=-1.0,
        norm="linf",
        distance=1e-7,
        model=network.weights_hash(),
    )
    store(tmp_path, item)
    ball = Ball.around(x, 1e-6, math.inf, None)
    clean = margins(network(x), label)
    batch = Batch(torch.tensor([0]), x, label, label, clean, ball)
    record = Attacker(network, Settings(pgd=PgdSettings(steps=2, restarts=1, targets=1)), tmp_path)(batch)[0]
    assert record.verdict == "unknown"
    assert record.witness is None
