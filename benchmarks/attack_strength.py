"""Our attacks against public ones: points broken at a radius, distances found, at the same number of steps.

    python benchmarks/attack_strength.py radius --points 200                     # all questions of attack_table.py
    python benchmarks/attack_strength.py radius --net kw_mnist --norm linf --eps 0.1 --points 1000
    python benchmarks/attack_strength.py nearest --net kw_mnist --norm l2 --points 128
    python benchmarks/attack_strength.py summary                                 # one JSON document, from what is there

Every run goes on where the last one stopped (`--out`), also with more points. `--again NAME` asks sides anew; sides of
ours are called `ours: LABEL`. Points proved robust before (`certify`, complete at the radii of the papers) are left out
of attacks with a radius: nobody can break them. The peers are optional (`attack_peers.py` says how to get them).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from attack_cells import Cells, Net, Work, ours, theirs, verdicts
from attack_peers import PEERS, missing
from attack_table import NEAREST, NORMS, QUESTIONS, RADIUS, Pair, Question

from robustcli.allocator import keep_memory


def sides(pairs: tuple[Pair, ...], norm: str) -> Iterator[Work]:
    """All sides that know the norm, ours first."""
    from robustcli.attacks.registry import ROWS

    p, seen = NORMS[norm], set()
    for pair in pairs:
        side = ours(pair)
        norms = ROWS[pair.ours].norms if pair.ours in ROWS else tuple(NORMS.values())
        if side is not None and p in norms:
            yield Work(f"ours: {pair.label}", side, norms)
    for pair in pairs:
        for name in pair.peers:
            peer = PEERS[name]
            if peer.there and p in peer.norms and name not in seen:
                seen.add(name)
                yield Work(name, theirs(name, pair.steps), peer.norms)


def path(out: Path, question: Question, kind: str) -> Path:
    """Where the lines of a question stand."""
    tail = f"{question.eps:g}" if kind == "radius" else "nearest"
    return out / question.net / f"{question.norm}-{tail}.jsonl"


def work(arguments: argparse.Namespace, question: Question) -> None:
    """All sides on one question."""
    net, radius = Net(question.net, arguments.points), arguments.kind == "radius"
    cells = Cells(path(arguments.out, question, arguments.kind))
    cells.forget(arguments.again)
    title = f"{question.net} {question.norm}"
    if radius:
        title += f" {question.eps:g}"
        known = verdicts(net, cells, question, arguments.time_limit)
        points = [row for row, verdict in known.items() if verdict in ("vulnerable", "unknown")]
        print(f"{title}: {len(points)} of {len(known)} points may be broken", flush=True)
    else:
        points = net.correct()
    for each in sides(RADIUS if radius else NEAREST, question.norm):
        if arguments.only and not any(part in each.name for part in arguments.only):
            continue
        if any(part in each.name for part in arguments.without):
            continue
        for line in each.run(net, cells, points, question.norm, question.eps):
            print(f"{title}, {line}", flush=True)


def broken(cells: Cells, side: str, points: set[int]) -> set[int] | None:
    """The points a side broke, or None where it has not been asked about all."""
    asked = {int(point) for line in cells.of(side) for point in line["points"]}
    if not points <= asked:
        return None
    return {point for line in cells.of(side) for point in line["fell"]} & points


def cost(cells: Cells, side: str) -> dict[str, float]:
    """Passes and seconds a point."""
    lines = cells.of(side)
    count = sum(len(line["points"]) for line in lines) or 1
    passes = sum(line["passes"] * len(line["points"]) for line in lines) / count
    return {"passes": round(passes), "seconds": round(sum(line["seconds"] for line in lines) / count, 3)}


def radius_figures(cells: Cells) -> dict[str, Any]:
    """Robust errors of all sides, and where a peer broke a point that we did not."""
    known = {int(point): verdict for point, verdict in cells.merged("verdicts", "verdict").items()}
    open_points = {row for row, verdict in known.items() if verdict in ("vulnerable", "unknown")}
    wrong = sum(verdict == "misclassified" for verdict in known.values())
    counts = {name: sum(verdict == name for verdict in known.values()) for name in sorted(set(known.values()))}
    rows, fell = {}, {}
    for side in cells.sides():
        found = broken(cells, side, open_points) if side != "verdicts" else None
        if found is not None:
            fell[side] = found
            error = 100 * (wrong + len(found)) / len(known)
            rows[side] = {"broken": len(found), "robust_error": round(error, 2), **cost(cells, side)}
    lost = {}
    for pair in RADIUS:
        mine = fell.get(f"ours: {pair.label}")
        for name in pair.peers:
            if mine is not None and name in fell and (missed := sorted(fell[name] - mine)):
                lost[f"{pair.label} against {name}"] = {"missed": missed, "gained": len(mine - fell[name])}
    union = set().union(*(found for side, found in fell.items() if side in PEERS))
    everything = set().union(*fell.values())
    standard = fell.get("ours: standard")
    result: dict[str, Any] = {"points": len(known), "verdicts": counts, "sides": rows, "lost": lost}
    result["union of peers"] = len(union)
    if standard is not None:
        vulnerable = {row for row, verdict in known.items() if verdict == "vulnerable"}
        result["standard misses"] = {
            "of the union of peers": sorted(union - standard),
            "of all sides": sorted(everything - standard),
            "of the points proved vulnerable": sorted(vulnerable - standard),
        }
    return result


def nearest_figures(cells: Cells) -> dict[str, Any]:
    """Distances of all sides on the points that all were asked about."""
    names = [side for side in cells.sides() if any("distance" in line for line in cells.of(side))]
    asked = {side: {int(point) for line in cells.of(side) for point in line["points"]} for side in names}
    points = sorted(set.intersection(*asked.values())) if asked else []
    found = {side: cells.merged(side, "distance") for side in names}
    of = {side: [found[side].get(str(row), math.inf) for row in points] for side in names}
    best = [min(of[side][place] for side in names) for place in range(len(points))]
    rows = {}
    for side in names:
        finite = [distance for distance in of[side] if math.isfinite(distance)]
        ratios = sorted(mine / least for mine, least in zip(of[side], best, strict=True) if least > 0)
        rows[side] = {
            "median": statistics.median(of[side]),
            "mean of those found": statistics.fmean(finite) if finite else None,
            "failed": len(points) - len(finite),
            "median over the best of all": statistics.median(ratios),
            "within 1 % of the best of all": sum(ratio <= 1.01 for ratio in ratios),
            **cost(cells, side),
        }
    lost = {}
    for pair in NEAREST:
        mine = of.get(f"ours: {pair.label}")
        for name in pair.peers:
            if mine is not None and name in of:
                worse = [row for row, a, b in zip(points, mine, of[name], strict=True) if a > b * 1.01]
                better = sum(b > a * 1.01 for a, b in zip(mine, of[name], strict=True))
                lost[f"{pair.label} against {name}"] = {
                    "longer by over 1 %": len(worse),
                    "shorter by over 1 %": better,
                    "median ratio": statistics.median(
                        a / b if b < math.inf else 0.0 for a, b in zip(mine, of[name], strict=True)
                    ),
                    "where longer": worse[:30],
                }
    return {"points": len(points), "sides": rows, "pairs": lost}


def plain(value: Any) -> Any:
    """As JSON has it: null for what is infinite."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(out: Path) -> dict[str, Any]:
    """All questions with lines."""
    result: dict[str, Any] = {"torch": torch.__version__, "radius": {}, "nearest": {}}
    for file in sorted(out.glob("*/*.jsonl")):
        cells, name = Cells(file), f"{file.parent.name} {file.stem.replace('-', ' ')}"
        if file.stem.endswith("nearest"):
            result["nearest"][name.removesuffix(" nearest")] = nearest_figures(cells)
        else:
            result["radius"][name] = radius_figures(cells)
    found: dict[str, Any] = plain(result)
    return found


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["radius", "nearest", "summary"])
    parser.add_argument("--net", nargs="+", help="recipes; all of the table by default")
    parser.add_argument("--norm", nargs="+", help="l1, l2, linf")
    parser.add_argument("--eps", type=float, nargs="+")
    parser.add_argument("--points", type=int, default=200, help="the first of the test set")
    parser.add_argument("--only", nargs="+", default=[], help="sides whose name contains this")
    parser.add_argument("--without", nargs="+", default=[], help="no sides whose name contains this")
    parser.add_argument("--again", nargs="+", default=[], help="forget what these sides found before")
    parser.add_argument("--time-limit", type=float, default=5, help="seconds a point, for verdicts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/attack-strength"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_memory()
    if arguments.kind == "summary":
        print(json.dumps(summary(arguments.out), indent=1))
        return
    print(*missing(), sep="\n", file=sys.stderr)
    if arguments.kind == "nearest":
        nets = arguments.net or list(dict.fromkeys(question.net for question in QUESTIONS))
        chosen = [Question(net, norm, math.inf) for net in nets for norm in arguments.norm or NORMS]
    else:
        chosen = [
            question
            for question in QUESTIONS
            if question.net in (arguments.net or [question.net])
            and question.norm in (arguments.norm or [question.norm])
            and question.eps in (arguments.eps or [question.eps])
        ]
    for question in chosen:
        work(arguments, question)


if __name__ == "__main__":
    main()
