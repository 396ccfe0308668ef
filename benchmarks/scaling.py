"""Images a second and peak memory of our bounds as batch, width or depth grow: what a longer run will cost.

    python benchmarks/scaling.py [--axis batch|width|depth] [--cnn]

Dense networks on 784 inputs (or, with --cnn, the small CNN of the papers with more channels or more convolutions), He
weights, linf 0.01 in the box [0, 1], random images. Every row runs in a process of its own with one thread, timed
by the CPU time of that process; of its peak memory the program and its libraries take `base` MB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import time

import torch

from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.evaluation.certify import BOUNDS
from robustcli.networks.layers import Conv2d, Linear
from robustcli.networks.network import Network, margin_rows

BATCH, WIDTH, DEPTH = 16, 256, 3
AXES = {"batch": [1, 4, 16, 64, 256], "width": [64, 128, 256, 512, 1024], "depth": [2, 3, 4, 6, 8]}
CONVOLUTIONS = {"batch": [1, 4, 16, 64], "width": [8, 16, 32, 64], "depth": [2, 3, 4, 5]}
NAMES = ("interval", "dual", "crown")


def dense(width: int, depth: int) -> list[dict[str, object]]:
    """`depth` hidden layers of `width` units."""
    sizes = [784, *[width] * depth]
    layers: list[dict[str, object]] = [{"type": "flatten"}]
    for below, above in itertools.pairwise(sizes):
        layers += [{"type": "linear", "in": below, "out": above}, {"type": "relu"}]
    return [*layers, {"type": "linear", "in": sizes[-1], "out": 10}]


def convolutional(width: int, depth: int) -> list[dict[str, object]]:
    """Two convolutions of stride 2 with `width` and 2 `width` channels, further ones of stride 1, 100 dense units."""
    layers: list[dict[str, object]] = []
    channels = [1, width, *[2 * width] * (depth - 1)]
    for place, (below, above) in enumerate(itertools.pairwise(channels)):
        kernel, stride = (4, 2) if place < 2 else (3, 1)
        layers.append({"type": "conv2d", "in": below, "out": above, "kernel": kernel, "stride": stride, "padding": 1})
        layers.append({"type": "relu"})
    units = channels[-1] * 49
    layers += [{"type": "flatten"}, {"type": "linear", "in": units, "out": 100}, {"type": "relu"}]
    return [*layers, {"type": "linear", "in": 100, "out": 10}]


def drawn(layers: list[dict[str, object]]) -> Network:
    """The network with He weights."""
    torch.manual_seed(0)
    network = Network.from_description({"input_shape": [1, 28, 28], "layers": layers}).requires_grad_(False)
    for layer in network.layers:
        if isinstance(layer, Conv2d | Linear):
            layer.weight.normal_(0, math.sqrt(2 / layer.fan_in))
            layer.bias.normal_(0, 0.1)
    return network.eval()


def peak() -> int:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def row(name: str, batch: int, width: int, depth: int, cnn: bool) -> dict[str, float]:
    """One bound on enough batches for half a second, after one that does not count."""
    network = drawn(convolutional(width, depth) if cnn else dense(width, depth)).double()
    points = torch.rand(batch, 1, 28, 28, dtype=torch.float64)
    rows, _ = margin_rows(network(points).argmax(1), network.classes, torch.float64)
    ball = Ball.around(points, 0.01, math.inf, (0.0, 1.0))
    before = peak()
    layers = BOUNDS[name](network, ball, rows).layers
    unstable = sum(int(layer.unstable.sum()) for layer in layers) / sum(layer.lower.numel() for layer in layers)
    count, begin = 0, time.process_time()
    while time.process_time() - begin < 0.5:
        BOUNDS[name](network, ball, rows)
        count += batch
    speed = count / (time.process_time() - begin)
    return {"images_per_second": round(speed, 2), "peak": peak(), "base": before, "unstable": round(unstable, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axis", choices=sorted(AXES), action="append")
    parser.add_argument("--cnn", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # one row, in the process that is started for it
    options = parser.parse_args()
    if options.row:
        torch.set_num_threads(1)
        keep_memory()
        print(json.dumps(row(**json.loads(options.row))))
        return
    for axis in options.axis or AXES:
        for value in (CONVOLUTIONS if options.cnn else AXES)[axis]:
            shape = {"batch": BATCH, "width": 16 if options.cnn else WIDTH, "depth": 2 if options.cnn else DEPTH}
            for name in NAMES:
                asked = {"name": name, **shape, axis: value, "cnn": options.cnn}
                command = [sys.executable, __file__, "--row", json.dumps(asked)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(json.dumps({**asked, **found}), flush=True)


if __name__ == "__main__":
    main()
