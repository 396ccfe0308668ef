"""Norms of all rows at once: the form that fits the layers, entries raised to a floor."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.regions.affine import Region
from robustcli.regions.row_norms import Backwards, Forwards, Sums, all_norms, hidden_norms, walker
from tests.nets import STACKS, convolutional, dense
from tests.regions.dense import jacobians
from tests.regions.test_affine import points_of


def test_every_form_is_tested() -> None:
    """`test_distances` compares all of STACKS with the Jacobian."""
    forms = {name: type(walker(net, [1.0], Sums(0, 1), logits=True)) for name, net in STACKS.items()}
    assert forms.pop("pooling") is Backwards
    assert set(forms.values()) == {Forwards}


@pytest.mark.parametrize("network", [dense([4, 6, 5, 3], 1), convolutional(0), *STACKS.values()])
def test_without_labels_the_hidden_norms_alone(network: object) -> None:
    region = Region.of(network, points_of(network, 3))  # type: ignore[arg-type]
    labels = torch.zeros(3, dtype=torch.long)
    both, _ = all_norms(region, labels, [1.0, math.inf])
    for a, b in zip(hidden_norms(region, [1.0, math.inf]), both, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("name", [name for name in STACKS if name != "no hidden layer"])
def test_floor(name: str, q: float) -> None:
    """Entries of the layers above the first count at least the floor, structural zeros too."""
    network = STACKS[name]
    points, labels = points_of(network, 2), torch.tensor([0, 1])
    (hidden,), (decisions,) = all_norms(Region.of(network, points), labels, [q], floor=0.3)
    for row, (point, label) in enumerate(zip(points, labels, strict=True)):
        *rows, last = jacobians(network, point)
        raised = [rows[0], *(part.abs().clamp(min=0.3) for part in rows[1:])]
        others = last[[s for s in range(network.classes) if s != label]]
        expected = torch.linalg.vector_norm(torch.cat(raised), ord=q, dim=1)
        differences = (last[label] - others).abs().clamp(min=0.3)
        assert torch.allclose(hidden[row], expected, atol=1e-12)
        assert torch.allclose(decisions[row], torch.linalg.vector_norm(differences, ord=q, dim=1), atol=1e-12)
