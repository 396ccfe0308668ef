"""Images a second of alpha-CROWN against auto_LiRPA's, equal certified counts, one run.

    python benchmarks/alpha_throughput.py --checkpoint runs/kw_mnist/seed-0 --points 100

The peer is optional: put auto_LiRPA (Verified-Intelligence) on PYTHONPATH to compare; without it only our side is
timed. Both get the same points, radius (linf, cut with the box), iterations and threads. Two ways to use it: on every
point, or only on the points that CROWN leaves open. Ours is timed as `robust certify` runs it: the search in float32,
everything that counts in float64, moved outward. The peer computes in float32 throughout and keeps its default learning
rates. Seconds are those of the processor (all threads together), for machines that do other things at the same time.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import sequential
from torch import Tensor

from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.bounds.alpha import alpha
from robustcli.bounds.crown import crown
from robustcli.bounds.layered import Effort
from robustcli.bounds.optimiser import Ascent
from robustcli.evaluation.session import Selection, open_session
from robustcli.networks.network import Network, margin_rows

Bound = Callable[[Tensor, Tensor], Tensor]
"""Points [B, *input_shape] and rows [B, T, K] -> margins [B, T]."""


def peer(network: Network, eps: float, method: str, iterations: int) -> Bound | None:
    """The margins of auto_LiRPA's BoundedModule, or None when it is not installed."""
    try:
        from auto_LiRPA import BoundedModule, BoundedTensor
        from auto_LiRPA.perturbations import PerturbationLpNorm
    except ImportError:
        return None
    model = sequential(network)
    options = {"optimize_bound_args": {"iteration": iterations}, "verbosity": 0}
    bounded = BoundedModule(model, torch.zeros(1, *network.input_shape), bound_opts=options, device="cpu")

    def bound(points: Tensor, rows: Tensor) -> Tensor:
        around = PerturbationLpNorm(
            norm=math.inf, eps=eps, x_L=(points - eps).clamp(min=0), x_U=(points + eps).clamp(max=1)
        )
        lower, _ = bounded.compute_bounds(x=(BoundedTensor(points, around),), C=rows, method=method, bound_upper=False)
        return lower.detach()

    return bound


def ours(network: Network, eps: float, method: str, iterations: int) -> Bound:
    """Our margins."""
    ascent = Ascent(iterations)

    def bound(points: Tensor, rows: Tensor) -> Tensor:
        ball = Ball.around(points, eps, math.inf, (0.0, 1.0))
        if method == "CROWN":
            return crown(network, ball, rows).margins
        return alpha(network, ball, rows, effort=Effort(ascent, ascent)).margins

    return bound


def certified(bound: Bound, points: Tensor, labels: Tensor, batch: int) -> tuple[Tensor, float]:
    """Which points have only positive margins, [N] bool, and the seconds that took."""
    found, begin = [], time.process_time()
    for first in range(0, len(points), batch):
        rows, _ = margin_rows(labels[first : first + batch], 10, points.dtype)
        found.append((bound(points[first : first + batch], rows) > 0).all(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool), time.process_time() - begin


def measured(
    cheap: Bound, dear: Bound, points: Tensor, labels: Tensor, all_points: int, batch: int
) -> dict[str, object]:
    """Images a second and certified counts of both ways."""
    certified(cheap, points[:1], labels[:1], 1)
    proved, seconds = certified(cheap, points, labels, 16)
    left = (~proved).nonzero().squeeze(1)
    more, extra = certified(dear, points[left], labels[left], batch)
    every, direct = certified(dear, points[:all_points], labels[:all_points], batch)
    return {
        "CROWN": {"certified": int(proved.sum()), "images_per_second": round(len(points) / seconds, 2)},
        "CROWN, then alpha on the open points": {
            "certified": int(proved.sum() + more.sum()),
            "open": len(left),
            "seconds_per_open_point": round(extra / max(len(left), 1), 3),
            "images_per_second": round(len(points) / (seconds + extra), 2),
        },
        "alpha on every point": {
            "points": all_points,
            "certified": int(every.sum()),
            "images_per_second": round(all_points / direct, 2),
        },
        "peak memory of the process so far, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Time both sides and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--every", type=int, default=16, help="points for alpha on every point")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kept = keep_memory()
    session = open_session(Selection(checkpoint=arguments.checkpoint, points=str(arguments.points), device="cpu"))
    index = torch.tensor(session.indices)
    points, labels = session.data.points(index), session.data.labels_tensor(index)
    right = session.exact(points.double()).argmax(1) == labels
    points, labels = points[right], labels[right]
    result: dict[str, object] = {
        "correctly classified points": len(points),
        "eps": arguments.eps,
        "iterations": arguments.iterations,
        "threads": arguments.threads,
        "memory kept": kept,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    size = arguments.eps, "CROWN", arguments.iterations
    search = arguments.eps, "alpha-CROWN", arguments.iterations
    with torch.no_grad():
        mine = ours(session.exact, *size), ours(session.exact, *search)
        result["ours"] = measured(*mine, points.double(), labels, arguments.every, 16)
    theirs = peer(session.network, *size), peer(session.network, *search)
    if theirs[0] is None or theirs[1] is None:
        print("auto_LiRPA is not installed: only our side is timed")
    else:
        result["auto_LiRPA"] = measured(theirs[0], theirs[1], points.float(), labels, arguments.every, 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
