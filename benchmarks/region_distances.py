"""Distances to all region and decision boundaries of many test points in l1, l2 and linf, in one pass of float64.

    python benchmarks/region_distances.py --checkpoint runs/kw_mnist/seed-0/weights.safetensors --points 10000

Against the plain dense form of `mmr_step.py` (every row of V kept), on the same network and some of the same points, in
the same run, on one thread with the same memory settings. The largest relative difference of the norms is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from pathlib import Path

import torch
from mmr_step import plain_norm, plain_rows

from robustcli.allocator import keep_memory
from robustcli.data.datasets import load as load_data
from robustcli.networks.checkpoints import load
from robustcli.regions.affine import Region
from robustcli.regions.distances import region_distances
from robustcli.regions.row_norms import MEMORY, hidden_norms

PS, QS = [1.0, 2.0, math.inf], [math.inf, 2.0, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--points", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--memory", type=int, default=MEMORY >> 20, help="MB of one piece")
    parser.add_argument("--plain-points", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    network = load(options.checkpoint).network.double()
    split = load_data(options.dataset, "test", partial=True)
    indices = torch.arange(min(options.points, len(split)))
    begun = time.process_time()
    for index in indices.split(options.batch):
        points, labels = split.points(index, dtype=torch.float64), split.labels_tensor(index)
        region_distances(network, points, labels, PS, memory=options.memory << 20)
    ours = (time.process_time() - begun) / len(indices)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    few = split.points(indices[: options.plain_points], dtype=torch.float64)
    with torch.no_grad():
        region = Region.of(network, few)
        begun = time.process_time()
        *hidden, _ = plain_rows(network, region)
        norms = [torch.cat([plain_norm(v, q).flatten(1).expand(len(few), -1) for v in hidden], 1) for q in QS]
        plain = (time.process_time() - begun) / len(few)
        pairs = zip(norms, hidden_norms(region, QS), strict=True)
        difference = max(float(((a - b).abs() / a.clamp(min=1e-30)).max()) for a, b in pairs)
    report = {
        "checkpoint": str(options.checkpoint),
        "points": len(indices),
        "seconds": round(ours * len(indices), 1),
        "ms_a_point": round(1e3 * ours, 3),
        "peak_mb": peak,
        "plain_ms_a_point": round(1e3 * plain, 1),
        "ratio": round(plain / ours, 1),
        "norm_difference": difference,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
