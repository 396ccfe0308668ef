"""What MMR and MMR-Universal share: hinges on distances, the nearest hyperplanes, and how both grow with the epochs.

The hinge of a distance d is [1 - d / gamma]_+: 0 beyond gamma, above 1 for the negative decision distances of wrongly
classified points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcli.networks.network import Network
from robustcli.recipes.methods import Conventions, NearestUnits
from robustcli.regions.conventions import Convention
from robustcli.training.objective import Moment
from robustcli.training.randomness import generator


def hinge(distances: Tensor, gamma: float) -> Tensor:
    """[1 - d / gamma]_+, elementwise; 0 with gradient 0 at d = inf."""
    return (1 - distances / gamma).clamp(min=0)


def nearest_count(units: int, nearest: NearestUnits, moment: Moment) -> int:
    """k_B(e) = int(n0 + (n1 - n0) e / E) with n0 = int(start N), n1 = int(end N) (code of 000); at least 1."""
    first, last = int(nearest.start * units), int(nearest.end * units)
    return max(1, int(first + (last - first) * moment.epoch / moment.epochs))


def warmup(epochs: int, moment: Moment) -> float:
    """min(e / epochs, 1): the share of lambda in epoch e = 1, 2, ... (000 appendix B.1)."""
    return min(moment.epoch / epochs, 1.0) if epochs else 1.0


def decision_divisor(conventions: Conventions, classes: int) -> int:
    """K (the code of 000 and 001) or K - 1 (001 eq. 9)."""
    return classes if conventions.decision_divisor == "classes" else classes - 1


def rows(conventions: Conventions) -> Convention:
    """How norms of rows are taken."""
    return Convention(conventions.stabiliser, conventions.first_layer == "full-filter")


def tie_offsets(network: Network, conventions: Conventions, seed: int) -> Tensor:
    """One constant per hidden unit, uniform of width `tie_noise` around 0: [N] on the CPU.

    Added before the nearest units are chosen, never to the distance that is penalised.
    """
    noise = torch.rand(network.hidden_units, generator=generator(seed, "tie-noise"))
    return conventions.tie_noise * (noise - 0.5)


@torch.no_grad()
def nearest_units(distances: Tensor, count: int, offsets: Tensor) -> Tensor:
    """The `count` units with the smallest distance + offset in every row.

    Args:
        distances: [B, N], >= 0 or inf.
        count: k_B, capped at N.
        offsets: [N].
    Returns:
        mask [B, N], constant for the gradient. Units at distance inf may be chosen; their hinge is 0.
    """
    keyed = distances + offsets.to(distances)
    chosen = keyed.topk(min(count, keyed.shape[1]), dim=1, largest=False, sorted=False).indices
    return torch.zeros_like(keyed, dtype=torch.bool).scatter_(1, chosen, True)
