"""What gradient attacks lower, as functions of the logits. Each is below its value at any correctly classified point
only on the way to a misclassification; zero or less than zero means misclassified for all but the cross-entropy.

    margin          f_y - max_t f_t
    cross_entropy   f_y - log sum_t exp f_t                 t over the rivals
    dlr             (f_y - max_t f_t) / (f_(1) - f_(3))     f_(1) >= f_(2) >= ... all logits in order
    targeted_dlr    (f_y - max_t f_t) / (f_(1) - (f_(3) + f_(4)) / 2)

The cross-entropy CE = log(1 + exp(-u)) falls as u = f_y - log sum_{t != y} exp f_t rises, so both have the same
ascent directions and the same order of points; but the gradient of u does not vanish where the softmax saturates. DLR:
Croce & Hein, arXiv 2003.01690, equations 6 and 7; scale-free, needs three classes, the targeted one four.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [R, K], labels [R, 1], rivals [R, K] bool, never the label) -> what to lower, [R, 1]."""

TINY = 1e-12
"""Guards 0 / 0: logits that are all alike."""


def margin(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """f_y minus the largest rival logit."""
    return logits.gather(1, labels) - logits.masked_fill(~rivals, -torch.inf).amax(1, keepdim=True)


def cross_entropy(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """Minus the cross-entropy among label and rivals, up to a rising function."""
    return logits.gather(1, labels) - logits.masked_fill(~rivals, -torch.inf).logsumexp(1, keepdim=True)


def dlr(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """The margin in units of the gap between the first and the third logit; the margin itself below three classes."""
    if logits.shape[1] < 3:
        return margin(logits, labels, rivals)
    top = logits.topk(3, dim=1).values
    return margin(logits, labels, rivals) / (top[:, :1] - top[:, 2:]).clamp(min=TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """The margin in units of the gap between the first and the middle of the third and fourth logit; the margin itself
    below four classes."""
    if logits.shape[1] < 4:
        return margin(logits, labels, rivals)
    top = logits.topk(4, dim=1).values
    return margin(logits, labels, rivals) / (top[:, :1] - top[:, 2:].mean(1, keepdim=True)).clamp(min=TINY)


LOSSES: dict[str, Loss] = {"margin": margin, "ce": cross_entropy, "dlr": dlr, "targeted-dlr": targeted_dlr}
"""By the names that settings use."""
