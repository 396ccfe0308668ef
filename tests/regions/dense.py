"""The same quantities in the plainest way: the whole Jacobian by autograd, one point at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.regions.distances import ratio


def jacobians(network: Network, point: Tensor, create_graph: bool = False) -> list[Tensor]:
    """V^(l) of one point [*input_shape] for every block: [units, d]."""
    jacobian = torch.autograd.functional.jacobian(
        lambda x: tuple(v.flatten() for v in network.pre_activations(x.unsqueeze(0))), point, create_graph=create_graph
    )
    return [part.flatten(1) for part in jacobian]


def distances(network: Network, points: Tensor, labels: Tensor, q: float, width: float = 0) -> tuple[Tensor, Tensor]:
    """Boundary [B, N] and decision [B, K-1] distances with gradients, for dual exponent q and a stabiliser's width."""
    boundary, decision = [], []
    for point, label in zip(points, labels, strict=True):
        *hidden, last = jacobians(network, point, create_graph=True)
        *values, logits = (v.flatten() for v in network.pre_activations(point.unsqueeze(0)))
        steady = [*hidden[:1], *(stabilised(rows, width) for rows in hidden[1:])]
        norms = [torch.linalg.vector_norm(rows, ord=q, dim=1) for rows in steady]
        boundary.append(ratio(torch.cat([*values, logits[:0]]).abs(), torch.cat([*norms, logits[:0]])))
        others = [s for s in range(len(logits)) if s != label]
        rows = stabilised((last[label] - last[others]).abs(), width) if width else last[label] - last[others]
        decision.append(ratio(logits[label] - logits[others], torch.linalg.vector_norm(rows, ord=q, dim=1)))
    return torch.stack(boundary), torch.stack(decision)


def stabilised(rows: Tensor, width: float) -> Tensor:
    """v + width where |v| < width."""
    return rows + width * (rows.detach().abs() < width).to(rows.dtype)
