"""Images a second of the KW dual bound against the convex_adversarial package, equal bounds, one run.

    python benchmarks/certify_throughput.py --checkpoint runs/kw_mnist/seed-0 --points 1000

The peer is optional: put the package `convex_adversarial` (locuslab) on PYTHONPATH to compare; without it only our side
is timed. Both get the same points, radius (linf, no box), threads and their best batch size of those tried. Ours is
timed as `robust certify` runs it (network in float64, rows in float32, what rounding loses added outward), with rows in
float64 too, and in float32 throughout without anything added, like the peer.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import sequential
from torch import Tensor

from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.bounds.precision import RowBound, in_single
from robustcli.evaluation.session import Selection, open_session
from robustcli.networks.network import Network

Bound = Callable[[Tensor, Tensor], Tensor]


def peer(network: Network, eps: float) -> Bound | None:
    """The margins of convex_adversarial's DualNetwork, or None when it is not installed."""
    try:
        from convex_adversarial import DualNetwork
    except ImportError:
        return None
    model = sequential(network)

    def bound(points: Tensor, rows: Tensor) -> Tensor:
        return DualNetwork(model, points, eps, proj=None, norm_type="l1", bounded_input=False)(rows)

    return bound


def ours(kw: RowBound, network: Network, eps: float, outward: bool) -> Bound:
    """Our margins, in the precision of the network."""

    def bound(points: Tensor, rows: Tensor) -> Tensor:
        return kw(network, Ball.around(points, eps, math.inf, None), rows, outward=outward).margins

    return bound


def timed(bound: Bound, points: Tensor, labels: Tensor, batch: int, repeats: int) -> tuple[float, Tensor]:
    """Best images a second of several passes, and the margins [N, K] (0 in the column of the label)."""
    eye = torch.eye(10, dtype=points.dtype)
    best, margins = 0.0, []
    with torch.no_grad():
        for _ in range(repeats):
            margins, begin = [], time.perf_counter()
            for first in range(0, len(points), batch):
                y = labels[first : first + batch]
                margins.append(bound(points[first : first + batch], eye[y].unsqueeze(1) - eye.unsqueeze(0)))
            best = max(best, len(points) / (time.perf_counter() - begin))
    return best, torch.cat(margins)


def main() -> None:
    """Time all sides and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kept = keep_memory()  # for both sides; ROBUST_MALLOC=system leaves the allocator alone
    session = open_session(Selection(checkpoint=arguments.checkpoint, points=str(arguments.points), device="cpu"))
    index = torch.tensor(session.indices)
    points, labels = session.data.points(index), session.data.labels_tensor(index)
    sides: dict[str, tuple[Bound, torch.dtype, tuple[int, ...]]] = {
        "ours": (ours(in_single(dual), session.exact, arguments.eps, True), torch.float64, (8, 16, 32)),
        "ours float64": (ours(dual, session.exact, arguments.eps, True), torch.float64, (4, 8, 16)),
        "ours float32": (ours(dual, session.network, arguments.eps, False), torch.float32, (8, 16, 32)),
    }
    other = peer(session.network, arguments.eps)
    if other is None:
        print("convex_adversarial is not installed: only our side is timed")
    else:
        sides["convex_adversarial float32"] = (other, torch.float32, (2, 4, 8, 16))
    result: dict[str, object] = {
        "points": len(index),
        "eps": arguments.eps,
        "threads": arguments.threads,
        "memory kept": kept,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    speeds: dict[str, float] = {}
    margins: dict[str, Tensor] = {}
    for name, (bound, dtype, batches) in sides.items():
        sample = points[:64].to(dtype)
        batch = max(batches, key=lambda size: timed(bound, sample, labels[:64], size, 1)[0])
        speeds[name], margins[name] = timed(bound, points.to(dtype), labels, batch, arguments.repeats)
        result[name] = {"images_per_second": round(speeds[name], 1), "batch": batch}
    if other is not None:
        theirs = margins["convex_adversarial float32"].double()
        for name in ("ours", "ours float64"):
            result[f"largest difference, {name}"] = float((margins[name] - theirs).abs().max())
        for name in ("ours", "ours float64", "ours float32"):
            result[f"ratio, {name}"] = round(speeds[name] / speeds["convex_adversarial float32"], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
