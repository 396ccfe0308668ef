"""Training by several processes, as `torchrun` starts them: each takes its share of every batch.

    gradient of the mean loss over n points  =  sum over processes r of  n_r / n  gradient of r's mean over n_r points

so all processes make the same step, and it is that of one process up to the order of float32 sums. This asks of an
objective that its loss be a mean over points (plus terms of the weights alone), which holds for all of them.

The gradients are summed by hand, flattened into one vector. The wrapper `DistributedDataParallel` would not do: its
reducer is armed by the wrapper's own `forward`, while objectives read the network's blocks (`Region.of`, `dual`) and so
pass it by.

Random numbers: every process draws the order and the augmentation of the whole batch, then takes its share, so these
are a single process's. An objective's own (starts of attacks) derive from (seed, epoch, step, process): they differ
between processes, repeat for the same number of processes, and change with that number.

Only the first process (rank 0) reads and writes the run folder; `Group.first` hands its findings, or its failure, to
the others. A process that dies closes its connections and thereby ends the others; one that hangs ends them after
TIMEOUT.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustcli.devices import choose
from robustcli.errors import RecipeError, RobustError, UsageError
from robustcli.networks.layers import BatchNorm
from robustcli.networks.network import Network

TIMEOUT = 600.0
"""Seconds one process waits for the others."""

T = TypeVar("T")


class StoppedElsewhere(RobustError):
    """The first process failed and has said why; the others end with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Share:
    """What one process takes of a batch: which positions, and their part n_r / n of it."""

    index: slice
    weight: float


class Group:
    """One process by itself: the base of `Processes`, which overrides the two ways of communicating."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; `values` may be overwritten."""
        return values

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process; the others do not run it.

        Raises:
            StoppedElsewhere: in the others, when it raised an error in the first process.
        """
        return work()

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    @property
    def seeding(self) -> tuple[str | int, ...]:
        """What tells this process's random numbers from those of the others; nothing for one by itself."""
        return () if self.size == 1 else ("process", self.rank)

    def share(self, count: int) -> Share:
        """This process's part of `count` points: every size-th one, so that its first half lies in the batch's.

        A process that would get none takes a point with weight 0, so that all of them take part in every sum.
        """
        own = len(range(self.rank, count, self.size))
        return Share(slice(self.rank, count, self.size), own / count) if own else Share(slice(0, 1), 0.0)

    def mean(self, values: Tensor, weight: float) -> Tensor:
        """Means over a batch from the means over the shares, float64."""
        return self.sum(values * weight)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(int(flag))))

    def average_gradients(self, weights: Iterable[nn.Parameter], weight: float) -> None:
        """Replace the gradients over the shares by those over the batch; a weight without any keeps none."""
        if self.size == 1:
            return
        parameters = list(weights)
        parts = [torch.zeros_like(item) if item.grad is None else item.grad for item in parameters]
        present = parts[0].new_tensor([item.grad is not None for item in parameters])
        summed = self.sum(torch.cat([weight * torch.cat([part.flatten() for part in parts]), present]))
        sizes = [part.numel() for part in parts]
        *gradients, present = summed.split([*sizes, len(parameters)])
        for item, gradient, there in zip(parameters, gradients, present.tolist(), strict=True):
            item.grad = gradient.view_as(item) if there else None

    def check(self, network: Network) -> None:
        """Refuse networks whose layers look at the whole batch.

        Raises:
            RecipeError: for batch normalisation: its statistics would be those of each process's share.
        """
        if self.size > 1 and any(isinstance(layer, BatchNorm) for layer in network.layers):
            raise RecipeError(
                f"{network.name} normalises batches, which would be done share by share in {self.size} processes",
                "train it with one process",
            )


ALONE = Group()


class Processes(Group):
    """The processes of torch's default group."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        with _together():
            dist.all_reduce(values)
        return values

    def first(self, work: Callable[[], T]) -> T:
        if not self.leads:
            result, failure = _told((None, None))
            if failure is not None:
                raise StoppedElsewhere(*failure)
            return cast(T, result)
        try:
            result = work()
        except Exception as error:
            _told((None, (str(error), getattr(error, "exit_code", 1))))
            raise
        _told((result, None))
        return result


def _told(content: tuple[Any, Any]) -> tuple[Any, Any]:
    """What the first process has to say, in all of them."""
    held = [content]
    with _together():
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    return held[0]


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say what it means when communication fails."""
    try:
        yield
    except RuntimeError as error:
        raise RobustError(
            "another process of this training has ended or hangs; its own message, if it left one, says why",
            "the same command goes on from the last state",
        ) from error


def started() -> bool:
    """Whether `torchrun`, or something that sets the same variables, started this as one of several processes."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() and os.environ["WORLD_SIZE"] != "1"


def rank() -> int:
    """The place of this process among those that were started together; 0 for one by itself."""
    return int(os.environ["RANK"]) if started() else 0


def own_device(name: str) -> str:
    """The device of this process: among several, each takes the GPU of its place on this machine.

    Raises:
        UsageError: when there are fewer GPUs than processes, or the device is unknown.
    """
    device = choose(name)
    if not started() or device.type != "cuda" or device.index is not None:
        return name
    place, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= available:
        raise UsageError(
            f"process {place + 1} of this machine has no GPU of its own: there are {available}",
            "start at most one process a GPU (torchrun --nproc-per-node), or use --device cpu",
        )
    return f"cuda:{place}"


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group of the processes that were started together; `ALONE` where this is the only one.

    Args:
        device: of this process. Gradients on CUDA travel by NCCL, everything else by Gloo.
    Raises:
        RobustError: when the processes do not find each other.
    """
    if not started():
        yield ALONE
        return
    chosen = choose(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=TIMEOUT)
        )
    except (RuntimeError, ValueError) as error:
        raise RobustError(
            f"the processes of this training do not find each other: {str(error).splitlines()[0]}",
            "start them with torchrun",
        ) from error
    try:
        yield Processes()
    finally:
        # Gloo's threads must end before the interpreter does: what still refers to the group, in cycles, goes first.
        gc.collect()
        dist.destroy_process_group()
        gc.collect()
