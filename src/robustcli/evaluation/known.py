"""What is known before a search: misclassified inputs of a network, stored by any command for any ball."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcli.attacks.verify import misclassified
from robustcli.balls import vector_norm
from robustcli.boxes import within
from robustcli.errors import DataError
from robustcli.evaluation.batch import Batch
from robustcli.networks.network import Network
from robustcli.results.witnesses import Place, Witness, all_witnesses


class Pool:
    """The stored witnesses of one network, by point.

    Args:
        place: where witnesses are kept, or None for nowhere.
        model: hash of the network as stored; witnesses against others are passed over.
        shape: of its inputs.
    Raises:
        DataError: when a file cannot be read, or holds no input of this network.
    """

    def __init__(self, place: Place | None, model: str, shape: Sequence[int]) -> None:
        self.known: dict[int, list[Witness]] = {}
        for item in all_witnesses(place) if place is not None else ():
            if item.model == model:
                check_shape(item, shape)
                self.known.setdefault(item.index, []).append(item)

    def of(self, batch: Batch, row: int) -> list[Witness]:
        """The witnesses of one point of a batch."""
        return self.known.get(int(batch.indices[row]), [])


def check_shape(witness: Witness, shape: Sequence[int]) -> None:
    """Refuse what is no input of the network.

    Raises:
        DataError: naming the file.
    """
    if witness.witness.shape != tuple(shape):
        raise DataError(
            f"the witness {witness.name} has shape {witness.witness.shape}, inputs of its network {tuple(shape)}",
            "delete it; the attack will find it again",
        )


def stacked(witnesses: Sequence[Witness], like: Tensor) -> Tensor:
    """At least one witness as candidates on a tensor's device, [N, *input_shape] float64."""
    return torch.stack([torch.from_numpy(item.witness) for item in witnesses]).to(like.device)


def nearest_of(exact: Network, batch: Batch, row: int, candidates: Tensor) -> int | None:
    """Which candidate is the nearest misclassified one inside the box, in the norm of the batch; None for none.

    Args:
        exact: float64.
        row: of the point in the batch.
        candidates: [N, *input_shape] float64.
    """
    many = batch.labels[row].expand(len(candidates))
    usable = misclassified(exact, candidates, many)
    if batch.ball.box is not None:
        usable &= within(candidates, batch.ball.box)
    distances = vector_norm((candidates - batch.points[row]).flatten(1), batch.ball.p)
    nearest = int(torch.where(usable, distances, torch.inf).argmin())
    return nearest if bool(usable[nearest]) else None
