"""`robust certify`: a record is `robust` only for what float64 proves, after rounding."""

from __future__ import annotations

import math

import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import Certifier, Settings
from robustcli.networks.network import Network, margin_rows, margins
from tests.nets import dense


def largest_certified(network: Network, x: torch.Tensor, rows: torch.Tensor) -> float:
    """The radius at which the float64 dual bound of one point turns negative, to the last digits."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        found = dual(network, Ball.around(x, middle, math.inf, None), rows, outward=False).margins.min()
        low, high = (middle, high) if found > 0 else (low, middle)
    return high


def edge() -> tuple[Network, Batch]:
    """Points with radii a hair too large for a proof: the bound is about -1e-9, far below what float32 can see."""
    network = dense([6, 20, 20, 3], 1).float().double()
    x = torch.rand(30, 6, generator=torch.Generator().manual_seed(2)).double()
    labels = network(x).argmax(1)
    rows, _ = margin_rows(labels, 3, torch.float64)
    eps = [largest_certified(network, x[i : i + 1], rows[i : i + 1]) * (1 + 1e-9) for i in range(len(x))]
    ball = Ball(x, torch.tensor(eps, dtype=torch.float64), math.inf, None)
    clean = margins(network(x), labels)
    return network, Batch(torch.arange(len(x)), x, labels, labels, clean, ball)


def test_a_float32_margin_is_no_proof() -> None:
    network, batch = edge()
    rows, _ = margin_rows(batch.labels, 3, torch.float32)
    rough = dual(network.float(), batch.ball.to(torch.float32), rows, outward=False).margins.amin(1)
    network = network.to(torch.float64)
    assert (rough > 0).any()  # float32 would have proved some of them
    records = Certifier(network, Settings())(batch)
    assert {record.verdict for record in records} == {"unknown"}
    assert {record.reason for record in records} == {"bound not positive"}
    smaller = Batch(**{**vars(batch), "ball": Ball(batch.points, batch.ball.eps * 0.999, math.inf, None)})
    assert {record.verdict for record in Certifier(network, Settings())(smaller)} == {"robust"}


def test_a_margin_that_is_no_number_is_unknown() -> None:
    network, batch = edge()
    network.layers[2].bias.data[0] = math.nan
    records = Certifier(network, Settings())(batch)
    assert {record.verdict for record in records} == {"unknown"}
    assert "NaN" not in records[0].model_dump_json()
