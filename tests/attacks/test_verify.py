"""The judge of attacks: success is a negative float64 margin inside ball and box, found anew, whatever was claimed."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustcli.attacks.verify import confirm
from robustcli.balls import Ball
from robustcli.evaluation.attack import Attacker, Settings
from robustcli.evaluation.batch import Batch
from robustcli.networks.layers import Linear
from robustcli.networks.network import Network, margins
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


def exact_margin(network: Network, x: Tensor, label: int) -> Fraction:
    """f_y - max f_s of a fully connected network in rational arithmetic."""
    values = [Fraction(value) for value in x.flatten().tolist()]
    for layer in network.layers:
        if isinstance(layer, Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [
                sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(bias)) for row, bias in rows
            ]
        else:
            values = [max(value, Fraction(0)) for value in values]
    return values[label] - max(value for index, value in enumerate(values) if index != label)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_success_is_misclassification_by_the_real_network(scale: float) -> None:
    """Ties up to rounding, whatever the size of the logits: the float64 margin has the wrong sign at some of them, and
    none of these is a success. Moved by more than rounding they all are."""
    tempting = 0
    for seed in range(60):
        network = dense([4, 8, 2], seed)
        network.layers[2].weight.data *= scale
        x = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        network.layers[2].bias.data = network.layers[2].bias * scale
        logits = network(x)[0]
        network.layers[2].bias.data[0] -= logits[0] - logits[1]
        found = confirm(network, Ball.around(x, 0.1, math.inf, None), torch.tensor([0]), x)
        wrong = exact_margin(network, found.points, 0) < 0
        tempting += bool(found.margins[0] < 0) and not wrong
        assert wrong or not bool(found.success[0])
        network.layers[2].bias.data[0] -= 1e-11 * float(logits.abs().max())
        assert bool(confirm(network, Ball.around(x, 0.1, math.inf, None), torch.tensor([0]), x).success[0])
    assert tempting >= 1


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
    (record,) = Attacker(network, Settings.only("apgd-wide", steps=2, restarts=1, targets=1), tmp_path)(batch)
    assert record.verdict == "unknown"
    assert record.witness is None
