"""The border on a segment, and the proximal map of the maximum norm."""

from __future__ import annotations

import torch

from robustcli.attacks.pdpgd import _capped
from robustcli.attacks.projection import projector
from robustcli.attacks.segment import pulled
from robustcli.balls import Ball
from robustcli.networks.network import margins
from tests.attacks.nearest_cases import linear, points
from tests.nets import dense


def test_a_linear_border_is_met_exactly() -> None:
    network, x, y = linear()
    far = x + 4 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near = pulled(network, x, y, far, None)
    at, end, start = (margins(network(z), y) for z in (near, far, x))
    # A linear network with three classes: the margin is concave, its first zero the only one.
    hit = end < 0
    assert int(hit.sum()) >= 5
    assert bool((at[hit] < 0).all())
    assert bool((at[hit] > -1e-7).all())
    assert bool((start > 0).all())
    assert torch.equal(near[~hit], far[~hit])


def test_pieces_are_crossed_and_more_steps_are_no_farther() -> None:
    network = dense([6, 20, 20, 3], 1)
    x, y = points(network, 40)
    far = x + 2 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    hit = margins(network(far), y) < 0
    assert int(hit.sum()) >= 10
    near = pulled(network, x, y, far, None)
    closer = pulled(network, x, y, far, None, steps=60)
    share, best = ((z - x).norm(dim=1) / (far - x).norm(dim=1) for z in (near, closer))
    assert bool((margins(network(near), y)[hit] < 0).all())
    assert bool((best <= share + 1e-12)[hit].all())
    assert float((share - best)[hit].max()) < 1e-5


def test_the_box_is_kept() -> None:
    network, x, y = linear()
    near = pulled(network, x, y, 1 - x.round(), (0.0, 1.0))
    assert bool(((near >= 0) & (near <= 1)).all())


def test_the_cap_is_moreaus() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(50, 30, dtype=torch.float64, generator=generator)
    weight = 30 * torch.rand(50, 1, dtype=torch.float64, generator=generator)
    ball = Ball(torch.zeros_like(v), weight.squeeze(1), 1.0)
    torch.testing.assert_close(_capped(v, weight), v - projector(ball)(v), rtol=0, atol=1e-12)
