"""Distances found over exact distances, in the manner of 000 Figure 4: the sorted ratios of every attack.

    python benchmarks/attack_strength.py nearest --net mnist-fc1-mmr-l2 --norm l2 --points 200
    python benchmarks/attack_exact.py --net mnist-fc1-mmr-l2 --norm l2 --points 200 --complete 60

Exact are points at which the lower and the upper bound of `robust bound-distance` meet: by neighbouring regions, or
with `--complete` by complete verification of the ball up to the nearest point known. For both, all that was found is
used, also by the attacks compared here: an attack's point shorter than the upper bound replaces it. Prints one JSON
document; with matplotlib and `--plot`, the curves as well.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from attack_cells import BOX, Cells, Net

from robustcli.allocator import keep_memory
from robustcli.library.questions import distance
from robustcli.results.distances import meet

PIECE = 16
SHARES = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]
BOUNDS = "bound-distance"
"""What sides that bound are called; what they were told follows."""


def bounded(net: Net, cells: Cells, norm: str, how: dict[str, Any]) -> dict[int, tuple[float, float]]:
    """Lower and upper bound of every correctly classified point; what is there already is not asked again."""
    side = f"{BOUNDS} {json.dumps(how)}"
    done = cells.merged(side, "between")
    todo = [row for row in net.correct() if str(row) not in done]
    for first in range(0, len(todo), PIECE):
        index = todo[first : first + PIECE]
        begin = time.process_time()
        found = distance(net.network, *net.rows(index), norm=norm, box=BOX, **how)
        between = {str(row): [float(found.lower[at]), float(found.upper[at])] for at, row in enumerate(index)}
        cells.add({"side": side, "points": index, "between": between, "seconds": time.process_time() - begin})
        print(f"bound-distance: {first + len(index)} of {len(todo)} points", flush=True)
    return {int(row): (low, high) for row, (low, high) in cells.merged(side, "between").items()}


def finite(ratio: float) -> float | None:
    """As JSON has it: null where nothing was found."""
    return None if math.isinf(ratio) else round(ratio, 5)


def curve(ratios: list[float]) -> dict[str, Any]:
    """How far distances are from exact ones; null where an attack found nothing."""
    ordered = sorted(ratios)
    last = len(ordered) - 1
    return {
        "quantiles": {f"{share:.0%}": finite(ordered[math.ceil(share * last)]) for share in SHARES},
        "above 1.001": sum(ratio > 1.001 for ratio in ordered) / len(ordered),
        "above 1.1": sum(ratio > 1.1 for ratio in ordered) / len(ordered),
        "above 1.2": sum(ratio > 1.2 for ratio in ordered) / len(ordered),
        "failed": sum(math.isinf(ratio) for ratio in ordered),
        "sorted": [finite(ratio) for ratio in ordered],
    }


def plotted(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """All curves on one page, where matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plot")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, found in curves.items():
        ratios = [ratio or math.inf for ratio in found["sorted"]]
        axes.plot([100 * (at + 1) / len(ratios) for at in range(len(ratios))], ratios, label=name)
    axes.set(xlabel="% of the points", ylabel="distance found / exact", ylim=(0.99, 1.5))
    axes.legend(fontsize=6)
    figure.savefig(path, dpi=100)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", required=True, help="a recipe with a trained network")
    parser.add_argument("--norm", default="l2")
    parser.add_argument("--points", type=int, default=200)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--regions", type=int, help="neighbouring regions to explore; all by default")
    group.add_argument("--complete", type=float, metavar="SECONDS", help="verify completely, this long a point")
    parser.add_argument("--out", type=Path, default=Path("runs/attack-strength"))
    parser.add_argument("--plot", type=Path, help="a PNG file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    net = Net(arguments.net, arguments.points)
    cells = Cells(arguments.out / arguments.net / f"{arguments.norm}-nearest.jsonl")
    how: dict[str, Any] = {"regions": arguments.regions}
    if arguments.complete is not None:
        how = {"methods": ["complete"], "time_limit": arguments.complete, "attacks": "standard"}
    between = bounded(net, cells, arguments.norm, how)
    sides = [side for side in cells.sides() if not side.startswith(BOUNDS)]
    found = {side: cells.merged(side, "distance") for side in sides}
    asked = [{point for line in cells.of(side) for point in line["points"]} for side in sides]
    exact = {}
    for row in sorted(set(between).intersection(*asked)):
        low, high = between[row]
        high = min(high, *(found[side].get(str(row), math.inf) for side in sides))
        if meet(low, high):
            exact[row] = high
    result: dict[str, Any] = {"net": arguments.net, "norm": arguments.norm, "points": len(between), "exact": len(exact)}
    if exact:
        result["attacks"] = {
            side: curve([found[side].get(str(row), math.inf) / length for row, length in exact.items()])
            for side in sides
        }
        if arguments.plot:
            plotted(result["attacks"], arguments.plot)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
