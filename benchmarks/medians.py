"""The median of random projections by comparators (`bounds/medians.py`) against `torch.median`, one run.

    python benchmarks/medians.py --count 50 --entries 131072

Processor milliseconds of one thread, best of the repeats, the same random numbers on both sides, answers compared; and
the two in place: bounds and gradients of the projected KW bounds on ConvMedBig's three convolutions, fresh weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.bounds import projections
from robustcli.bounds.medians import median_size
from robustcli.networks.architectures import build
from robustcli.training.colt.bounding import estimated
from robustcli.training.colt.objective import instability


def by_torch(values: Tensor) -> Tensor:
    """The same by torch."""
    return values.abs().median(1).values


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Best of some, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return round(1e3 * min(times[1:]), 1)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="numbers each median is of")
    parser.add_argument("--entries", type=int, default=131072)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    torch.manual_seed(0)
    values = torch.randn(1, arguments.count, arguments.entries)
    torch.testing.assert_close(median_size(values), by_torch(values), rtol=0, atol=0)
    network = build("convmedbig-2-2-4-250", (3, 32, 32), 10)
    ball = Ball.around(torch.rand(arguments.images, 3, 32, 32), 2 / 255, float("inf"), (0.0, 1.0))

    def bounds() -> None:
        layers = estimated(network, ball, 3, torch.Generator().manual_seed(0), count=arguments.count)
        instability(layers[2]).backward()  # type: ignore[no-untyped-call]

    result: dict[str, object] = {**vars(arguments)}
    whole = projections.L1
    for name, median in {"comparators": median_size, "torch": by_torch}.items():
        projections.L1 = replace(whole, estimated=median)
        result[name] = {
            "median_ms": milliseconds(lambda median=median: median(values), arguments.repeats),  # type: ignore[misc]
            "bounds_ms": milliseconds(bounds, arguments.repeats),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
