"""Images a second of CROWN against auto_LiRPA, equal bounds, one run.

    python benchmarks/crown_throughput.py --checkpoint runs/kw_mnist/seed-0 --points 1000
    python benchmarks/crown_throughput.py --cifar --eps 0.00784 --points 64

The peer is optional: put `auto_LiRPA` (Verified-Intelligence) on PYTHONPATH to compare; without it only our side is
timed. Both get the same points, radius (linf, in the box [0, 1]), threads and their best batch size of those tried;
the peer runs in float32, its own precision, ours with outward rounding and, as `robust certify` runs it, with rows in
float32 (`bounds.precision`).

Ours, timed: `crown` as it stands (KW dual first, then CROWN where signs are open: the better of both at every unit),
the same with rows in float64, CROWN on its own (what the peer computes: its bounds are compared with these, in
float64), and CROWN after the dual's hidden bounds are known, as in the cascade. The CIFAR network has random weights,
by which a part of its units is unstable at eps.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peers import sequential
from torch import Tensor

from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.bounds.crown import crown, unknown
from robustcli.bounds.crown_ibp import crown_ibp
from robustcli.bounds.dual import dual
from robustcli.bounds.precision import in_single
from robustcli.bounds.types import MarginBounds
from robustcli.evaluation.session import Selection, open_session
from robustcli.networks.layers import Conv2d, Linear
from robustcli.networks.network import Network, margin_rows

BOX = (0.0, 1.0)
Side = Callable[[Tensor, Tensor], tuple[Tensor, float]]
"""Margins of a batch of points, and the seconds that do not count."""


@dataclass(frozen=True)
class Problem:
    """A network in both precisions, points and labels."""

    network: Network
    points: Tensor
    labels: Tensor
    eps: float


def cifar(count: int, eps: float) -> Problem:
    """The small CNN on inputs of CIFAR's shape, random weights and images."""
    layers: list[dict[str, object]] = [
        {"type": "conv2d", "in": 3, "out": 16, "kernel": 4, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "conv2d", "in": 16, "out": 32, "kernel": 4, "stride": 2, "padding": 1},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in": 2048, "out": 100},
        {"type": "relu"},
        {"type": "linear", "in": 100, "out": 10},
    ]
    torch.manual_seed(0)
    network = Network.from_description({"input_shape": [3, 32, 32], "layers": layers}).requires_grad_(False)
    for layer in network.layers:
        if isinstance(layer, Conv2d | Linear):
            layer.weight.normal_(0, math.sqrt(2 / layer.fan_in))
            layer.bias.normal_(0, 0.1)
    points = torch.rand(count, 3, 32, 32)
    return Problem(network.eval(), points, network(points).argmax(1), eps)


def stored(checkpoint: Path, count: int, eps: float) -> Problem:
    """A trained network and the first points of its test set."""
    session = open_session(Selection(checkpoint=checkpoint, points=str(count), device="cpu"))
    index = torch.tensor(session.indices)
    return Problem(session.network, session.data.points(index).float(), session.data.labels_tensor(index), eps)


BOUNDS: dict[str, Callable[..., MarginBounds]] = {
    "crown": in_single(crown),
    "crown, float64": crown,
    "dual": in_single(dual),
    "dual, float64": dual,
    "crown_ibp": crown_ibp,
}
OURS = [*BOUNDS, "crown alone, float64", "crown, dual known"]


def ours(problem: Problem, how: str) -> Side:
    """One of our bounds for the network in float64."""
    network = problem.network.double()

    def side(points: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        rows, _ = margin_rows(labels, network.classes, torch.float64)
        ball = Ball.around(points.double(), problem.eps, math.inf, BOX)
        if how in BOUNDS:
            return BOUNDS[how](network, ball, rows).margins, 0.0
        if how == "crown alone, float64":
            return crown(network, ball, rows, known=unknown(network, ball)).margins, 0.0
        begin = time.perf_counter()
        known = BOUNDS["dual"](network, ball, rows).layers
        spent = time.perf_counter() - begin
        return BOUNDS["crown"](network, ball, rows, known=known).margins, spent

    return side


def peer(problem: Problem, batch: int) -> Side | None:
    """CROWN of auto_LiRPA, or None when it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from auto_LiRPA import BoundedModule, BoundedTensor
            from auto_LiRPA.perturbations import PerturbationLpNorm
    except ImportError:
        return None
    model = sequential(problem.network)
    bounded = BoundedModule(model, problem.points[:batch], device="cpu")

    def side(points: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        rows, _ = margin_rows(labels, problem.network.classes, torch.float32)
        low, high = (points - problem.eps).clamp(*BOX), (points + problem.eps).clamp(*BOX)
        ball = PerturbationLpNorm(norm=math.inf, eps=None, x_L=low, x_U=high)
        lower, _ = bounded.compute_bounds((BoundedTensor(points, ball),), C=rows, method="CROWN", bound_upper=False)
        return lower.double(), 0.0

    return side


def timed(problem: Problem, side: Side, batch: int, count: int) -> tuple[float, Tensor]:
    """Images a second over the first `count` points, and the margins."""
    margins, spared, begin = [], 0.0, time.perf_counter()
    with torch.no_grad():
        for first in range(0, count, batch):
            chosen = slice(first, min(first + batch, count))
            found, seconds = side(problem.points[chosen], problem.labels[chosen])
            margins.append(found)
            spared += seconds
    return count / (time.perf_counter() - begin - spared), torch.cat(margins)


def main() -> None:
    """Time all sides in turns and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a trained network of our own")
    parser.add_argument("--cifar", action="store_true", help="random weights on inputs of CIFAR's shape instead")
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", help="time one side alone (for its peak memory)")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kept = keep_memory()  # for both sides; ROBUST_MALLOC=system leaves the allocator alone
    if arguments.cifar == (arguments.checkpoint is not None):
        parser.error("give --checkpoint or --cifar")
    problem = (
        cifar(arguments.points, arguments.eps)
        if arguments.cifar
        else stored(arguments.checkpoint, arguments.points, arguments.eps)
    )
    sides: dict[str, Callable[[int], Side | None]] = {
        "auto_LiRPA": lambda batch: peer(problem, batch),
        **{
            name: lambda batch, name=name: ours(problem, name)  # type: ignore[misc]
            for name in OURS
        },
    }
    if arguments.only is not None:
        sides = {arguments.only: sides[arguments.only]}
    result: dict[str, object] = {
        "points": len(problem.points),
        "eps": arguments.eps,
        "threads": arguments.threads,
        "memory kept": kept,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    batches: dict[str, int] = {}
    sample = min(64, len(problem.points))
    for name, make in sides.items():
        if make(1) is None:
            print("auto_LiRPA is not installed: only our side is timed")
            continue
        tried = {}
        for batch in arguments.batches:
            side = make(batch)
            assert side is not None
            timed(problem, side, batch, min(batch, sample))  # the first call of a shape builds graphs and kernels
            tried[batch], _ = timed(problem, side, batch, sample)
        batches[name] = max(tried, key=lambda batch: tried[batch])
    speeds: dict[str, list[float]] = {name: [] for name in batches}
    margins: dict[str, Tensor] = {}
    for _ in range(arguments.repeats):
        for name, batch in batches.items():
            side = sides[name](batch)
            assert side is not None
            speed, margins[name] = timed(problem, side, batch, len(problem.points))
            speeds[name].append(speed)
    for name, found in speeds.items():
        result[name] = {
            "images_per_second": round(max(found), 1),
            "batch": batches[name],
            "uncertified": int((margins[name].amin(1) <= 0).sum()),
        }
    if "auto_LiRPA" in speeds and "crown alone, float64" in speeds:
        difference = (margins["crown alone, float64"] - margins["auto_LiRPA"]).abs()
        result["difference of crown alone, float64"] = {
            "median": float(difference.median()),
            "99.9 %": float(difference.flatten().quantile(0.999)),
            "largest": float(difference.max()),
        }
        for name in speeds:
            result[f"ratio, {name}"] = round(max(speeds[name]) / max(speeds["auto_LiRPA"]), 2)
    result["peak memory, whole process, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
