"""Is a difference between two single runs luck? One run of ours and of the public APGD for each of several seeds.

    python benchmarks/attack_seeds.py --net kw_mnist --eps 0.15 --points 64 --seeds 8

linf; points that `attack_strength.py` has proved robust before, in the same folder, are left out. The peer is optional
(`attack_peers.py` says how to get it). Prints how many points each seed breaks, and all seeds together.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from attack_cells import Cells, Net
from attack_peers import PEERS
from torch import Tensor

from robustcli.allocator import keep_memory
from robustcli.attacks.noise import point_seeds
from robustcli.attacks.registry import ROWS


def ours(net: Net, index: list[int], eps: float, name: str, seed: int) -> Tensor:
    """Which points one run of our attack breaks, [N] bool."""
    task = replace(net.task(index, "linf", eps), seeds=point_seeds(seed, torch.tensor(index)))
    return ROWS[name].attack(task, ROWS[name].settings.model_validate({"restarts": 1})).success


def theirs(net: Net, index: list[int], eps: float, loss: str, seed: int) -> Tensor:
    """The same of the public APGD, judged by us."""
    from autoattack.autopgd_base import APGDAttack

    points, labels = net.rows(index)
    attack = APGDAttack(net.model, n_iter=100, norm="Linf", n_restarts=1, eps=eps, seed=seed, loss=loss, device="cpu")
    return net.task(index, "linf", eps).judge(attack.perturb(points.float(), labels).double()).success


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="kw_mnist", help="a recipe with a trained network")
    parser.add_argument("--eps", type=float, default=0.15)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/attack-strength"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    net, eps = Net(arguments.net, arguments.points), arguments.eps
    known = Cells(arguments.out / arguments.net / f"linf-{eps:g}.jsonl").merged("verdicts", "verdict")
    index = [row for row in net.correct() if known.get(str(row)) != "robust"]
    result = {}
    for side, (one, name) in {
        "ours: apgd-ce": (ours, "apgd-ce"),
        "ours: apgd-dlr": (ours, "apgd-dlr"),
        "autoattack APGD-CE": (theirs, "ce"),
        "autoattack APGD-DLR": (theirs, "dlr"),
    }.items():
        if one is ours or PEERS[side].there:
            broken = torch.stack([one(net, index, eps, name, seed) for seed in range(arguments.seeds)])
            result[side] = {"each": broken.sum(1).tolist(), "together": int(broken.any(0).sum())}
    print(json.dumps({"net": arguments.net, "eps": eps, "points": len(index), "broken": result}, indent=1))


if __name__ == "__main__":
    main()
