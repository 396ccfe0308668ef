"""Random numbers that belong to a point: functions of their address, uniform, independent."""

from __future__ import annotations

import torch

from robustcli.attacks.noise import mix, point_seeds, uniform


def test_splitmix64_reference_values() -> None:
    """The first outputs of SplitMix64 with seed 1234567 (Vigna's reference program)."""
    state, golden = 1234567, 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for number, value in enumerate(expected):
        counter = (state + number * golden) % 2**64
        signed = counter - 2**64 if counter >= 2**63 else counter
        assert int(mix(torch.tensor(signed))) % 2**64 == value


def test_numbers_do_not_depend_on_the_batch() -> None:
    seeds = point_seeds(7, torch.arange(20))
    all_of_them = uniform(seeds, torch.arange(20) % 3, 11)
    some = torch.tensor([13, 2, 17])
    assert torch.equal(uniform(point_seeds(7, some), some % 3, 11), all_of_them[some])


def test_points_runs_and_seeds_differ() -> None:
    rows = torch.cat([uniform(point_seeds(seed, torch.arange(50)), run, 1) for seed in range(4) for run in range(4)])
    assert len(rows.unique()) == 800


def test_uniform_on_the_open_interval() -> None:
    numbers = uniform(point_seeds(0, torch.arange(100)), 0, 1000)
    assert 0 < float(numbers.min()) < 1e-4
    assert 1 - 1e-4 < float(numbers.max()) < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 45  # chi square, 19 degrees of freedom, p about 1e-3
    correlation = torch.corrcoef(numbers.T[:50])
    assert float((correlation - torch.eye(50, dtype=torch.float64)).abs().max()) < 0.5
