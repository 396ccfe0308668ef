"""One training step of MMR (cross-entropy included), this package against the plain dense form of the papers' code.

    python benchmarks/mmr_step.py --network mnist-cnn --method linf --batch 128 --plain-batch 32

The plain form pushes an identity basis of the input through the masked layers for every image, keeps every row of V,
takes all norms, and differentiates through all of it. It is written as well as eager torch allows (channels last,
absolute sums instead of vector norms). It may run on a smaller batch; its time is then scaled. Both run in one process,
on one thread, with the same memory settings, on the same network and points, and their losses and gradients on the
plain batch are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.allocator import keep_memory
from robustcli.data.datasets import load as load_data
from robustcli.networks.architectures import build
from robustcli.networks.checkpoints import load
from robustcli.networks.initialisation import initialise
from robustcli.networks.network import Network
from robustcli.norms import dual
from robustcli.regions.affine import Region
from robustcli.regions.distances import ratio
from robustcli.regions.first_layer import root
from robustcli.training.hinges import hinge, nearest_units
from robustcli.training.margin import Hinge, Margin, own, union

NETWORKS = {
    "mnist-cnn": ("cnn", (1, 28, 28)),
    "cifar-cnn": ("cnn", (3, 32, 32)),
    "mnist-fc1": ("fc1", (1, 28, 28)),
    "mnist-fc10": ("fc10", (1, 28, 28)),
}
METHODS = {
    "linf": ([Hinge(math.inf, 0.2)], own, 0.10),
    "l2": ([Hinge(2.0, 0.45)], own, 0.10),
    "universal": ([Hinge(1.0, 1.0, 3.0), Hinge(math.inf, 0.175, 12.0)], union, 0.20),
}


def plain_rows(network: Network, region: Region) -> list[Tensor]:
    """V of every layer by pushing the identity basis: [B, d, *units] each."""
    inputs = math.prod(network.input_shape)
    blocks, batch = network.blocks, region.size
    basis = torch.eye(inputs, dtype=network.dtype).view(inputs, *network.input_shape)
    if len(network.input_shape) == 3:
        basis = basis.contiguous(memory_format=torch.channels_last)
    rows = [blocks[0].linear(basis).unsqueeze(0)]
    for block, mask in zip(blocks[1:], region.masks, strict=True):
        masked = (rows[-1] * mask.unsqueeze(1)).flatten(0, 1)
        if masked.dim() == 4:
            masked = masked.contiguous(memory_format=torch.channels_last)
        pushed = block.linear(masked)
        rows.append(pushed.view(batch, inputs, *pushed.shape[1:]))
    return rows


def plain_norm(rows: Tensor, q: float) -> Tensor:
    """||row||_q over dimension 1, without a square root at 0."""
    if q == 1:
        return rows.abs().sum(1)
    if q == 2:
        return root((rows * rows).sum(1), q)
    return rows.abs().amax(1)


def plain_margin(margin: Margin, network: Network, region: Region, labels: Tensor) -> Tensor:
    """The regulariser, every row kept and differentiated."""
    *hidden, logits = plain_rows(network, region)
    own_rows = logits[torch.arange(len(labels)), :, labels]
    classes = torch.arange(network.classes).expand(len(labels), -1)
    others = classes[classes != labels.unsqueeze(1)].view(len(labels), -1)
    gaps = own_rows.unsqueeze(2) - logits.gather(2, others.unsqueeze(1).expand(-1, logits.shape[1], -1))
    distances, decisions = [], []
    for h in margin.hinges:
        q = dual(h.p)
        norms = torch.cat([plain_norm(v, q).flatten(1).expand(len(labels), -1) for v in hidden], 1)
        distances.append(ratio(region.hidden().abs(), norms))
        decisions.append(ratio(region.margins(labels), plain_norm(gaps, q)))
    masks = margin.selection([nearest_units(d.detach(), margin.count, margin.offsets) for d in distances])
    total = region.values[-1].new_zeros(())
    for h, mask, near, far in zip(margin.hinges, masks, distances, decisions, strict=True):
        total = total + h.weight * torch.where(mask, hinge(near, h.gamma), 0.0).sum() / margin.count
        total = total + h.weight * hinge(far, h.gamma).sum() / margin.divisor
    return total / len(labels)


def own_margin(margin: Margin, network: Network, region: Region, labels: Tensor) -> Tensor:
    boundary, decision = margin(region, labels)
    return boundary.mean() + decision.mean()


def step(regulariser: Callable[[Region], Tensor], network: Network, points: Tensor, labels: Tensor) -> Tensor:
    """Forward and backward of cross-entropy and regulariser; the loss."""
    network.zero_grad()
    region = Region.of(network, points)
    loss = F.cross_entropy(region.values[-1], labels) + regulariser(region)
    loss.backward()
    return loss.detach()


def timed(run: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median CPU seconds after one warm-up."""
    run()
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        loss = run()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds), loss


def profiled(run: Callable[[], Tensor]) -> None:
    """Print where the time goes."""
    with torch.profiler.profile() as profile:
        run()
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="mnist-cnn")
    parser.add_argument("--checkpoint", help="weights of a trained network (else freshly initialised)")
    parser.add_argument("--dataset", help="first training images of this data set (else random sparse images)")
    parser.add_argument("--method", choices=METHODS, default="linf")
    parser.add_argument("--share", type=float, help="of the hidden units that are penalised (else as at the start)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--plain-batch", type=int, default=32, help="0: without the plain form")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--selection", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--profile", action="store_true", help="print where the time of our step goes")
    parser.add_argument("--malloc", choices=["keep", "system"], default="keep")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.malloc == "keep":
        keep_memory()
    architecture, shape = NETWORKS[options.network]
    network = build(architecture, shape, 10)
    initialise(network, "truncated-normal", torch.Generator().manual_seed(0))
    if options.checkpoint:
        network.load_state_dict(load(options.checkpoint).network.state_dict())
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(options.batch, *shape, generator=generator)
    points = points * (torch.rand(points.shape, generator=generator) < 0.2)
    labels = torch.randint(0, 10, (options.batch,), generator=generator)
    if options.dataset:
        split = load_data(options.dataset, "train", partial=True)
        points = split.points(torch.arange(options.batch), dtype=torch.float32)
        labels = split.labels_tensor(torch.arange(options.batch))
    hinges, selection, share = METHODS[options.method]
    units = network.hidden_units
    offsets = 1e-5 * (torch.rand(units, generator=generator) - 0.5)
    products = torch.bfloat16 if options.selection == "bfloat16" else None
    margin = Margin(hinges, int((options.share or share) * units), 10, offsets, selection, products=products)

    keys = ("network", "method", "selection", "malloc")
    report: dict[str, object] = {key: getattr(options, key) for key in keys}
    cross_entropy, _ = timed(lambda: step(lambda region: torch.zeros(()), network, points, labels), options.repeats)
    ours, _ = timed(
        lambda: step(lambda region: own_margin(margin, network, region, labels), network, points, labels),
        options.repeats,
    )
    if options.profile:
        profiled(lambda: step(lambda region: own_margin(margin, network, region, labels), network, points, labels))
    report |= {"cross_entropy_ms": round(1e3 * cross_entropy, 1), "step_ms": round(1e3 * ours, 1)}
    report["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if options.plain_batch:
        count = options.plain_batch
        few, own_labels = points[:count], labels[:count]
        loss = step(lambda region: own_margin(margin, network, region, own_labels), network, few, own_labels)
        gradient = torch.cat([w.grad.flatten().clone() for w in network.parameters() if w.grad is not None])
        plain, plain_loss = timed(
            lambda: step(lambda region: plain_margin(margin, network, region, own_labels), network, few, own_labels),
            max(1, options.repeats // 2),
        )
        theirs = torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None])
        scaled = plain * options.batch / count
        report |= {
            "plain_batch": count,
            "plain_ms_scaled": round(1e3 * scaled, 1),
            "ratio": round(scaled / ours, 1),
            "loss_difference": abs(float(loss - plain_loss)) / abs(float(plain_loss)),
            "gradient_difference": float((gradient - theirs).norm() / theirs.norm()),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
