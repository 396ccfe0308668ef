"""Adversarial points for training: a lean PGD on the cross-entropy (000 appendix B.1), without verification."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.attacks.directions import direction, movable
from robustcli.attacks.projection import projector
from robustcli.balls import Ball
from robustcli.networks.gradients import InputGradient
from robustcli.networks.network import Network


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Evaluation mode (running statistics) inside the block; the former mode afterwards."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def training_points(
    network: Network,
    ball: Ball,
    labels: Tensor,
    steps: int,
    step_size: float | None,
    generator: torch.Generator | None,
    *,
    sparsity: float | None = None,
) -> Tensor:
    """Points of the balls with a high cross-entropy: random start, `steps` steps, last point.

    Args:
        network: its weights get no gradient; batch statistics are not used or changed.
        ball: in the precision of the network, [B, *input_shape].
        labels: [B].
        steps: number of gradient steps.
        step_size: length in units of the norm; None takes 2 eps / steps (000 appendix B.1).
        generator: of the random start.
        sparsity: l1 only, share of coordinates moved at once; None takes 1 % (grey images, features) or 10 % (001).
    Returns:
        [B, *input_shape], detached.
    """
    norm, project, shape = direction(ball.p), projector(ball), ball.center.shape
    flat = ball.center.flatten(1)
    share = flat.new_tensor([[sparsity or (0.1 if len(shape) == 4 and shape[1] > 1 else 0.01)]])
    length = (2 * ball.eps / steps if step_size is None else torch.full_like(ball.eps, step_size)).unsqueeze(1)
    noise = torch.rand(flat.shape, generator=generator, dtype=flat.dtype, device=flat.device)
    # Keeps log and erfinv finite: float32 may draw exactly 0.
    start = norm.start(noise.clamp_(1e-6, 1 - 1e-6))
    x = project((flat + start * ball.eps.unsqueeze(1)).view(shape))

    def loss(logits: Tensor) -> Tensor:
        return -F.cross_entropy(logits, labels, reduction="none")

    with evaluating(network), torch.no_grad():
        slope = InputGradient(network)
        for _ in range(steps):
            gradient = slope(x, loss).gradient
            descent = movable(gradient.flatten(1), x.flatten(1), ball)
            x = project(x - (length * norm.step(descent, share)).view(shape))
    return x
