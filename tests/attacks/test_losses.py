"""What gradient attacks lower: values worked out by hand, and gradients where logits are extreme."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustcli.attacks.losses import LOSSES, Loss, cross_entropy, dlr, margin, targeted_dlr

LOGITS = torch.tensor([[3.0, 1.0, -1.0, 2.0, 0.5]], dtype=torch.float64)


def lowered(loss: Loss, logits: Tensor, label: int, rivals: list[int] | None = None) -> float:
    classes = torch.arange(logits.shape[1])
    allowed = classes != label if rivals is None else torch.isin(classes, torch.tensor(rivals))
    return float(loss(logits, torch.tensor([[label]]), allowed.unsqueeze(0)))


def test_values_by_hand() -> None:
    """Sorted logits 3, 2, 1, .5, -1; class 0 has 3."""
    assert lowered(margin, LOGITS, 0) == 1
    assert lowered(margin, LOGITS, 3) == -1
    assert lowered(margin, LOGITS, 0, [2]) == 4
    assert lowered(dlr, LOGITS, 0) == pytest.approx((3 - 2) / (3 - 1))
    assert lowered(dlr, LOGITS, 3) == pytest.approx((2 - 3) / (3 - 1))
    assert lowered(targeted_dlr, LOGITS, 0, [1]) == pytest.approx((3 - 1) / (3 - (1 + 0.5) / 2))
    rest = math.log(sum(math.exp(value) for value in (1, -1, 2, 0.5)))
    assert lowered(cross_entropy, LOGITS, 0) == pytest.approx(3 - rest)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=3, max_size=8), st.integers(0, 2))
def test_the_cross_entropy_is_a_falling_function_of_what_is_lowered(values: list[float], label: int) -> None:
    """CE = log(1 + exp(-u)), and the gradients of both have one direction."""
    logits = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    rivals = (torch.arange(len(values)) != label).unsqueeze(0)
    u = cross_entropy(logits, torch.tensor([[label]]), rivals)
    entropy = F.cross_entropy(logits, torch.tensor([label]))
    torch.testing.assert_close(entropy, torch.logaddexp(torch.zeros_like(u), -u).squeeze(), rtol=0, atol=1e-12)
    (ours,) = torch.autograd.grad(u.sum(), logits)
    (theirs,) = torch.autograd.grad(entropy, logits)
    share = float(torch.sigmoid(-u.detach()))
    torch.testing.assert_close(theirs, -share * ours, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_saturated_logits_keep_their_gradient(loss: Loss, scale: float) -> None:
    """Where the softmax is 1 to the last bit, the cross-entropy itself has gradient 0."""
    logits = (scale * LOGITS).float().requires_grad_()
    value = loss(logits, torch.tensor([[0]]), (torch.arange(5) != 0).unsqueeze(0))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(value.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("loss", [dlr, targeted_dlr])
def test_dlr_does_not_know_the_scale(loss: Loss) -> None:
    assert lowered(loss, 1e3 * LOGITS, 0) == pytest.approx(lowered(loss, LOGITS, 0))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_equal_logits_are_no_division_by_zero(loss: Loss, classes: int) -> None:
    logits = torch.zeros(1, classes, requires_grad=True)
    value = loss(logits, torch.tensor([[0]]), (torch.arange(classes) != 0).unsqueeze(0))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(value.isfinite().all())
    assert bool(gradient.isfinite().all())


def test_few_classes_take_the_margin() -> None:
    assert lowered(dlr, LOGITS[:, :2], 0) == lowered(margin, LOGITS[:, :2], 0) == 2
    assert lowered(targeted_dlr, LOGITS[:, :3], 0, [2]) == lowered(margin, LOGITS[:, :3], 0, [2]) == 4
