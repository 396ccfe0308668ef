"""The network as blocks between ReLUs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustcli.networks.layers import Flatten, Linear, ReLU
from robustcli.networks.network import Network, margin_rows, margins
from tests.nets import convolutional, golden_network


def network() -> Network:
    return convolutional(seed=3, normalise=True)


def points(net: Network, count: int = 5) -> torch.Tensor:
    return torch.rand(count, *net.input_shape, dtype=net.dtype, generator=torch.Generator().manual_seed(2))


def test_golden_logits() -> None:
    net, x, label = golden_network()
    pre = net.pre_activations(x)
    torch.testing.assert_close(pre[0], torch.tensor([[0.15, 0.425, -0.05, 0.45]], dtype=torch.float64))
    torch.testing.assert_close(net(x), pre[-1])
    assert margins(net(x), label).item() > 0


def test_blocks_compose_to_the_network() -> None:
    net, x = network(), points(network())
    value = x
    for number, block in enumerate(net.blocks):
        value = block(value if number == 0 else value.relu())
    torch.testing.assert_close(value, net(x), rtol=0, atol=0)


def test_a_block_is_its_matrix_plus_its_offset() -> None:
    for block in network().blocks:
        x = torch.randn(4, *block.in_shape, dtype=torch.float64)
        y = torch.randn(4, *block.out_shape, dtype=torch.float64)
        torch.testing.assert_close(block(x), block.linear(x) + block.offset(), rtol=0, atol=1e-12)
        torch.testing.assert_close((block.linear(x) * y).sum(), (x * block.adjoint(y)).sum(), rtol=1e-10, atol=1e-10)
        assert (block.magnitude(x.abs()) >= block.linear(x).abs() - 1e-12).all()


def test_counts() -> None:
    net, _, _ = golden_network()
    assert (net.hidden_units, net.classes, net.parameter_count) == (7, 3, 12 + 15 + 12)


def test_description_and_weights_give_the_network_back() -> None:
    net = network()
    again = Network.from_description(net.describe()).double()
    again.load_state_dict(net.state_dict())
    x = points(net)
    assert torch.equal(again(x), net(x))
    assert again.weights_hash() == net.weights_hash()


def test_the_hash_sees_every_weight_and_the_architecture() -> None:
    net = network()
    hashes = {net.weights_hash()}
    for weight in net.parameters():
        weight.data.view(-1)[0] += 1e-9
        hashes.add(net.weights_hash())
    net.layers[1].stride = 3  # type: ignore[assignment]
    hashes.add(net.weights_hash())
    assert len(hashes) == 2 + len(list(net.parameters()))


def test_double_is_exact_frozen_and_apart() -> None:
    net = network().float()
    exact = net.double()
    assert exact.dtype == torch.float64
    assert not any(weight.requires_grad for weight in exact.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(exact.state_dict()[name], value.double())
    next(net.parameters()).data += 1
    assert not torch.equal(next(exact.parameters()), next(net.parameters()).double())


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        ([ReLU(), Linear(3, 2)], (3,), "must follow an affine"),
        ([Linear(3, 3), ReLU(), ReLU(), Linear(3, 2)], (3,), "must follow an affine"),
        ([Linear(3, 2), ReLU()], (3,), "last layer"),
        ([Linear(3, 2)], (4,), "expects shape"),
        ([Flatten((1, 2, 2)), Linear(5, 2)], (1, 2, 2), "expects shape"),
        ([Linear(3, 2), nn.Sigmoid()], (3,), "not in the layer set"),
    ],
)
def test_layers_that_do_not_chain_are_refused(layers: list[nn.Module], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Network(layers, shape)  # type: ignore[arg-type]


def test_margins_and_margin_rows_agree() -> None:
    logits = torch.randn(20, 5, dtype=torch.float64)
    labels = torch.randint(0, 5, (20,))
    rows, targets = margin_rows(labels, 5, torch.float64)
    per_target = torch.einsum("bck,bk->bc", rows, logits)
    torch.testing.assert_close(per_target.amin(1), margins(logits, labels))
    own = logits.gather(1, labels.unsqueeze(1))
    torch.testing.assert_close(per_target, own - logits.gather(1, targets))
    assert ((margins(logits, labels) < 0) == (logits.argmax(1) != labels)).all()
