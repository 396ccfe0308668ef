"""One training step of KW (003), this package against the convex_adversarial package, in one run.

    python benchmarks/kw_step.py --batch 128 --peer-batch 8
    python benchmarks/kw_step.py --checkpoint runs/kw_mnist/seed-0/weights.safetensors --eps 0.1

Both sides take the robust cross-entropy over linf balls without a box, forward and backward, on the same network and
points, threads and memory settings. The peer keeps every row of the dual network for its gradients, so it runs on a
smaller batch and its time is scaled to ours. Losses and gradients are compared on that batch, in both precisions. The
peer is optional: put the package `convex_adversarial` (locuslab) on PYTHONPATH; without it only our side is timed.
Ours is also timed with random projections, which only estimate the bound.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peers import sequential
from torch import Tensor
from torch.nn import functional as F

from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.bounds.projections import projected
from robustcli.data.datasets import load as load_data
from robustcli.networks.architectures import build
from robustcli.networks.checkpoints import load
from robustcli.networks.initialisation import initialise
from robustcli.networks.network import Network
from robustcli.training.kw import Bound, exact, robust_logits

Step = Callable[[Tensor, Tensor], Tensor]
"""Forward and backward of points and labels; the loss. Gradients stay in the weights."""


def ours(network: Network, eps: float, bound: Bound) -> Step:
    """Our step."""

    def step(points: Tensor, labels: Tensor) -> Tensor:
        network.zero_grad()
        worst, _ = robust_logits(network, Ball.around(points, eps, math.inf, None), labels, bound)
        loss = F.cross_entropy(worst, labels)
        loss.backward()
        return loss.detach()

    return step


def peer(network: Network, eps: float) -> tuple[Step, list[Tensor]] | None:
    """The peer's step and its weights, or None when it is not installed."""
    try:
        from convex_adversarial import robust_loss
    except ImportError:
        return None
    model = sequential(network).to(network.dtype).requires_grad_()

    def step(points: Tensor, labels: Tensor) -> Tensor:
        model.zero_grad()
        loss, _ = robust_loss(model, eps, points, labels)
        loss.backward()
        return loss.detach()

    return step, list(model.parameters())


def timed(step: Step, points: Tensor, labels: Tensor, repeats: int) -> float:
    """Median CPU milliseconds after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        step(points, labels)
        seconds.append(time.process_time() - begun)
    return 1e3 * statistics.median(seconds[1:])


def gradient(weights: list[Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([weight.grad.flatten().clone() for weight in weights if weight.grad is not None])


def compared(network: Network, eps: float, points: Tensor, labels: Tensor) -> dict[str, float]:
    """Relative differences between both sides' losses and gradients."""
    other = peer(network, eps)
    assert other is not None
    own, (theirs, weights) = ours(network, eps, exact), other
    losses = own(points, labels), theirs(points, labels)
    mine, reference = gradient(list(network.parameters())), gradient(weights)
    return {
        "loss": float((losses[0] - losses[1]).abs() / losses[1].abs()),
        "gradient": float((mine - reference).norm() / reference.norm()),
    }


def main() -> None:
    """Time both sides and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="cnn")
    parser.add_argument("--dataset", default="mnist", help="its first training images are the points")
    parser.add_argument("--checkpoint", type=Path, help="weights of a trained network (else freshly initialised)")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peer-batch", type=int, default=4, help="0: without the peer")
    parser.add_argument("--projections", type=int, default=0, help="time these too; 0: not")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = keep_memory()  # for both sides; ROBUST_MALLOC=system leaves the allocator alone
    split = load_data(options.dataset, "train", partial=True)
    network = build(options.architecture, split.spec.input_shape, split.spec.classes)
    initialise(network, "torch", torch.Generator().manual_seed(0))
    if options.checkpoint:
        network.load_state_dict(load(options.checkpoint).network.state_dict())
    index = torch.arange(options.batch)
    points, labels = split.points(index, dtype=torch.float32), split.labels_tensor(index)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    own = timed(ours(network, options.eps, exact), points, labels, options.repeats)
    report: dict[str, object] = {
        "architecture": options.architecture,
        "checkpoint": str(options.checkpoint) if options.checkpoint else None,
        "eps": options.eps,
        "batch": options.batch,
        "memory kept": kept,
        "step_ms": round(own, 1),
        "before_mb": base,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    if options.projections:
        bound = partial(projected, count=options.projections, generator=torch.Generator().manual_seed(0))
        estimated = timed(ours(network, options.eps, bound), points, labels, options.repeats)
        report |= {"projections": options.projections, "projected_ms": round(estimated, 1)}
        report["projected_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    count = options.peer_batch
    other = peer(network, options.eps) if count else None
    if other is not None:
        few, few_labels = points[:count], labels[:count]
        scaled = timed(other[0], few, few_labels, options.repeats) * options.batch / count
        double = Network.from_description(network.describe()).to(torch.float64)
        double.load_state_dict(network.state_dict())
        report |= {
            "peer_batch": count,
            "peer_ms_scaled": round(scaled, 1),
            "ratio": round(scaled / own, 1),
            "difference_float32": compared(network, options.eps, few, few_labels),
            "difference_float64": compared(double, options.eps, few.double(), few_labels),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
