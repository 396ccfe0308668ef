"""What ruling out classes saves: `standard` with and without `attacks.reach`, the same points, one run.

python benchmarks/attack_reach.py --net kw_mnist --norm linf --eps 0.1 --points 160
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from attack_cells import BOX, Net
from torch import Tensor

import robustcli.evaluation.attack as attacking
from robustcli.allocator import keep_memory
from robustcli.balls import Ball
from robustcli.library.questions import attack
from robustcli.networks.network import Network


def everything(exact: Network, ball: Ball, labels: Tensor) -> Tensor:
    """All other classes, [B, K] bool."""
    return torch.arange(exact.classes) != labels.unsqueeze(1)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="kw_mnist", help="a recipe with a trained network")
    parser.add_argument("--norm", default="linf", choices=["l1", "l2", "linf"])
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--points", type=int, default=160)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    net, ruled_out = Net(arguments.net, arguments.points), attacking.in_reach
    points, labels = net.rows(net.session.indices)
    result: dict[str, Any] = {**vars(arguments)}
    for name, reach in {"classes ruled out": ruled_out, "all classes": everything}.items():
        attacking.in_reach = reach
        begin = time.process_time()
        found = attack(net.network, points, labels, norm=arguments.norm, eps=arguments.eps, box=BOX).verdicts
        result[name] = {"seconds": round(time.process_time() - begin, 1), "broken": found.count("vulnerable")}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
