"""The inner maximisation of 002: PGD on the error terms of a zonotope, whose projection is a clip to [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.bounds.latent import Region, above
from robustcli.networks.network import Network
from robustcli.recipes.methods import LatentAttack


def latent_points(
    network: Network, region: Region, labels: Tensor, attack: LatentAttack, generator: torch.Generator | None
) -> Tensor:
    """Points of the zonotopes with a high cross-entropy: random error terms, then steps along the sign of the gradient.

    002 prints a step along A^T grad; its code, and this, take the sign of it. At depth 0 that is PGD in the cut ball.

    Args:
        network: its weights get no gradient.
        region: zonotopes of the batch.
        labels: [B].
        attack: forward passes, the one of the training loss included, and length of the steps between them.
        generator: of the random start.
    Returns:
        [B, *shape behind ReLU k], detached.
    """
    errors = region.errors(generator)
    with torch.enable_grad():
        for _ in range(attack.steps - 1):
            errors = [error.requires_grad_() for error in errors]
            logits = above(network, region.depth, region.point(errors))
            gradients = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), errors)
            errors = [
                error.detach().add(gradient.sign(), alpha=attack.step_size).clamp_(-1, 1)
                for error, gradient in zip(errors, gradients, strict=True)
            ]
    with torch.no_grad():
        return region.point(errors)
