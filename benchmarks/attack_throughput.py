"""Passes a second of our PGD and APGD against torchattacks and the public APGD, one run.

    python benchmarks/attack_throughput.py --net kw_mnist --points 256 --steps 50
    python benchmarks/attack_throughput.py --net kw_mnist --norm l1 --threads 1

A pass is one forward and one backward pass of one point. All sides take the same points, radius and steps, at a radius
so small that no point falls, so that nobody stops early; processor seconds, each side at its best batch size of those
tried (ours has its own blocks). `network` is the bare loop: forward, cross-entropy, gradient, nothing else; on the
peers' module and on ours by autograd, and as our attacks do it. Peers are optional (`attack_peers.py` says how to get
them).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable

import torch
from attack_cells import Net
from attack_peers import PEERS, Counted, candidates, missing
from attack_table import NORMS
from torch import Tensor, nn

from robustcli.allocator import keep_memory
from robustcli.attacks.registry import ROWS
from robustcli.attacks.search import LOOK, block_rows
from robustcli.networks.gradients import InputGradient

EPS = {"l1": 0.05, "l2": 0.02, "linf": 0.002}
OURS: dict[str, tuple[str, dict[str, int]]] = {
    "ours: pgd": ("pgd", {"restarts": 1}),
    "ours: apgd-ce": ("apgd-ce", {"restarts": 1}),
    "ours: apgd-dlr": ("apgd-dlr", {"restarts": 1}),
}
THEIRS = (
    "torchattacks PGD",
    "torchattacks PGDL2",
    "foolbox PGD",
    "adv_lib PGD",
    "autoattack APGD-CE",
    "torchattacks APGD",
    "adv_lib APGD-DLR",
)
Side = Callable[[list[int]], float]
"""Rows of the test set -> passes spent on them in all."""


def bare(module: nn.Module, net: Net, steps: int) -> Side:
    """Forward, cross-entropy and gradient alone."""

    def side(index: list[int]) -> float:
        points, labels = net.rows(index)
        x: Tensor = points.float()
        for _ in range(steps):
            x = x.detach().requires_grad_()
            torch.autograd.grad(nn.functional.cross_entropy(module(x), labels), x)
        return len(index) * steps

    return side


def ours_bare(net: Net, steps: int) -> Side:
    """The same by the pass of our attacks."""

    def side(index: list[int]) -> float:
        points, labels = net.rows(index)
        slope, x = InputGradient(net.network), points.float()
        for _ in range(steps):
            slope(x, lambda logits: nn.functional.cross_entropy(logits, labels, reduction="none"))
        return len(index) * steps

    return side


def ours(net: Net, name: str, norm: str, steps: int) -> Side:
    """One of our attacks, with the judgement of what it found."""
    attack, options = OURS[name]
    row = ROWS[attack]

    def side(index: list[int]) -> float:
        found = row.attack(net.task(index, norm, EPS[norm]), row.settings.model_validate({"steps": steps, **options}))
        return float(found.passes.sum()) / LOOK

    return side


def theirs(net: Net, name: str, norm: str, steps: int) -> Side:
    """A public attack, its answers not judged."""

    def side(index: list[int]) -> float:
        points, labels = net.rows(index)
        counted = Counted(net.model)
        candidates(PEERS[name], counted, points.float(), labels, NORMS[norm], EPS[norm], steps)
        return float(counted.backwards)

    return side


def speed(side: Side, index: list[int], batch: int) -> float:
    """Passes a second of processor time."""
    begin, passes = time.process_time(), 0.0
    for first in range(0, len(index), batch):
        passes += side(index[first : first + batch])
    return passes / (time.process_time() - begin)


def main() -> None:
    """Time all sides in turns and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="kw_mnist", help="a recipe with a trained network")
    parser.add_argument("--norm", default="linf", choices=list(EPS))
    parser.add_argument("--points", type=int, default=256, help="correctly classified points, a multiple of 64 is fair")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_memory()
    print(*missing(), sep="\n", file=sys.stderr)
    net = Net(arguments.net, arguments.points + arguments.points // 4)
    index = net.correct()[: arguments.points]
    norm, steps = arguments.norm, arguments.steps
    sides = {name: ours(net, name, norm, steps) for name in OURS}
    sides |= {
        name: theirs(net, name, norm, steps)
        for name in THEIRS
        if PEERS[name].there and NORMS[norm] in PEERS[name].norms
    }
    sides |= {"network, theirs": bare(net.model, net, steps), "network, ours, autograd": bare(net.network, net, steps)}
    sides |= {"network, ours": ours_bare(net, steps)}
    batches: dict[str, int] = {}
    speeds: dict[str, list[float]] = {}
    for name, side in sides.items():
        tried = {}
        for batch in [len(index)] if name in OURS else arguments.batches:
            if batch <= len(index):
                part = index[: max(batch, block_rows(torch.device("cpu")))]
                speed(side, part[:32], batch)  # the first call of a shape builds kernels
                tried[batch] = speed(side, part, batch)
        batches[name], speeds[name] = max(tried, key=lambda batch: tried[batch]), []
    for _ in range(arguments.repeats):
        for name, side in sides.items():
            speeds[name].append(speed(side, index, batches[name]))
    result = {
        "net": arguments.net,
        "norm": norm,
        "points": len(index),
        "steps": steps,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "passes_per_second": {name: round(max(found)) for name, found in speeds.items()},
        "batch": {name: batch for name, batch in batches.items() if name not in OURS},
        "ratio": {
            name: {peer: round(max(speeds[name]) / max(speeds[peer]), 2) for peer in speeds if peer not in OURS}
            for name in OURS
        },
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
