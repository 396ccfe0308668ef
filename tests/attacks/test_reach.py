"""Classes out of reach are those that no point of the ball is taken for."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.attacks.reach import in_reach
from robustcli.balls import Ball
from robustcli.networks.network import Network
from tests.nets import convolutional, dense


def centred(network: Network) -> Network:
    """The network with logits of mean 0 over random points, so that many classes are met."""
    x = torch.rand(200, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    network.layers[-1].bias.data -= network(x).mean(0)
    return network.requires_grad_(False)


NETWORKS = {"dense": centred(dense([6, 14, 11, 5], seed=2)), "convolutional": centred(convolutional(5))}
EPS = {1.0: 0.15, 2.0: 0.1, math.inf: 0.02}


@pytest.mark.parametrize("p", list(EPS))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_no_point_of_the_ball_is_taken_for_a_class_out_of_reach(name: str, p: float) -> None:
    network, draw = NETWORKS[name], torch.Generator().manual_seed(0)
    x = torch.rand(20, *network.input_shape, dtype=torch.float64, generator=draw)
    labels, ball = network(x).argmax(1), Ball.around(x, EPS[p], p, (0.0, 1.0))
    reach = in_reach(network, ball, labels)
    assert not bool(reach.gather(1, labels.unsqueeze(1)).any())
    points = ball.sample(500, draw)
    met = network(points.flatten(0, 1)).view(20, 500, -1).argmax(2)
    for row in range(20):
        others = set(met[row].tolist()) - {int(labels[row])}
        assert others <= set(reach[row].nonzero().squeeze(1).tolist())
    ruled_out = reach.sum() < 20 * (network.classes - 1)
    assert bool(reach.any())
    assert bool(ruled_out)
    assert torch.equal(in_reach(network, ball.take(torch.arange(3, 9)), labels[3:9]), reach[3:9])


def test_a_wrong_label_is_in_reach_and_smaller_balls_reach_less() -> None:
    network = NETWORKS["dense"]
    x = torch.rand(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    order = network(x).argsort(1)
    before = torch.zeros(30, network.classes, dtype=torch.bool)
    for eps in (1e-6, 0.02, 0.1, 0.4):
        reach = in_reach(network, Ball.around(x, eps, math.inf, (0.0, 1.0)), order[:, -2])
        assert bool(reach.gather(1, order[:, -1:]).all())
        assert bool((before <= reach).all())
        before = reach


@pytest.mark.parametrize("eps", [0.0, math.inf])
def test_nothing_is_said_about_balls_without_a_finite_radius(eps: float) -> None:
    network = NETWORKS["dense"]
    x = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    reach = in_reach(network, Ball(x, torch.tensor([eps, 1e-9], dtype=torch.float64), 2.0), network(x).argmax(1))
    assert reach.sum(1).tolist() == [4, 0]


def test_a_network_without_numbers_rules_nothing_out() -> None:
    broken: Network = dense([4, 5, 3], seed=1)
    broken.layers[0].weight.data[0, 0] = math.nan
    x = torch.rand(3, 4, dtype=torch.float64)
    reach = in_reach(broken, Ball.around(x, 0.1, math.inf, None), torch.zeros(3, dtype=torch.int64))
    assert reach.sum().item() == 6
