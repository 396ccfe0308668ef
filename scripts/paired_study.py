"""Does a change of a recipe help? Both variants are trained with the same seeds, and certified on the same test points.

    python scripts/paired_study.py --recipe mnist-2x100-kw-linf --images 10000 --seeds 0-2 \\
        --set training.epochs=10 --set method.ramp_epochs=3 \\
        --with 'method.tightness={gap: 2e-3, distance: 1, warmup_epochs: 3}' --out study.json

A seed decides the first weights, the order of the points and all noise, so that the difference within a seed is that of
the change alone, as far as training is not chaotic. Told are the differences, their mean and their standard deviation
(n - 1), and what the change may work through: the tightness indicators d and r of 004 and the unstable units.

Each variant is a run of `robust train` in a folder of its own below --runs, so the same command goes on where it was
stopped. The test points only measure: choose settings with `search_interval.py`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from robustcli.balls import Ball
from robustcli.bounds.crown import backward_margins
from robustcli.bounds.indicators import IndexSets, tightness
from robustcli.bounds.relaxation import adaptive, parallel
from robustcli.bounds.types import MarginBounds
from robustcli.data.datasets import Split
from robustcli.data.datasets import load as load_split
from robustcli.data.specs import spec
from robustcli.errors import RobustError, UsageError
from robustcli.evaluation.certify import BOUNDS
from robustcli.files import read_lines, write_text
from robustcli.networks import checkpoints
from robustcli.networks.network import Network, margin_rows
from robustcli.norms import exponent
from robustcli.recipes.loading import load as load_recipe
from robustcli.recipes.model import Recipe
from robustcli.results import provenance
from robustcli.results.runs import RunFolder
from robustcli.results.seeds import several, spread
from robustcli.training.held_out import certified_errors
from robustcli.training.loop import Silent, error
from robustcli.training.runs import Request, train

INDICATED = 500
"""Over how many of the test points the indicators are averaged."""
RULES = {"dual": parallel}
"""Lower slopes of a bound's relaxation; CROWN's for all others."""


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both variants")
    parser.add_argument("--with", dest="change", action="append", required=True, metavar="KEY=VALUE", help="the change")
    parser.add_argument("--images", type=int, metavar="N", help="train on the first N images. (default: all)")
    parser.add_argument("--seeds", default="0-2", help="e.g. 0-2 or 0,3,7")
    parser.add_argument("--bound", default="dual", choices=sorted(BOUNDS), help="what certifies the test points")
    parser.add_argument("--points", type=int, help="the first N test points. (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs-study"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("study.json"))
    return parser.parse_args(given)


def trained(options: argparse.Namespace, overrides: list[str], seed: int) -> tuple[Recipe, RunFolder]:
    """The finished run of a variant, trained now where that is not done yet."""
    recipe = load_recipe(options.recipe, overrides)
    ended = train(
        Request(recipe, tuple(overrides), seed, options.runs, options.device, options.threads), Silent(), print
    )
    if not ended.run.finished:
        raise SystemExit("stopped; the same command goes on")
    return recipe, ended.run


@torch.no_grad()
def indicators(network: Network, split: Split, index: range, recipe: Recipe, bound: str) -> dict[str, Any]:
    """Means over some points: d and r of a margin, unstable units of each hidden layer."""
    norm, rule = recipe.norm, RULES.get(bound, adaptive)
    gaps, distances, unstable = [], [], []
    for chosen in torch.tensor(list(index)).split(50):
        points, labels = split.points(chosen, dtype=torch.float64), split.labels_tensor(chosen)
        ball = Ball.around(points, recipe.eps[norm], exponent(norm), split.spec.box)
        rows, _ = margin_rows(labels, network.classes, torch.float64)
        layers = BOUNDS[bound](network, ball, rows).layers
        margins = backward_margins(network, ball, rows, layers, rule, outward=False)
        found = tightness(network, ball, rows, MarginBounds(margins, layers), rule)
        gaps.append(found.gap.mean(1))
        distances.append(found.distance.mean(1))
        unstable.append(IndexSets.of(layers).unstable.double())
    return {
        "d": float(torch.cat(gaps).mean()),
        "r": float(torch.cat(distances).mean()),
        "unstable": [round(value, 2) for value in torch.cat(unstable).mean(0).tolist()],
    }


def measured(options: argparse.Namespace, overrides: list[str], seed: int, test: Split) -> dict[str, Any]:
    """Train a variant and measure it on the test points."""
    recipe, run = trained(options, overrides, seed)
    network = checkpoints.load(run.weights).network.double()
    points = range(min(options.points or len(test), len(test)))
    radii = {str(recipe.norm): recipe.eps[recipe.norm]}
    boxed = list(radii) if test.spec.box is not None else []
    open_points = certified_errors(network, test, points, radii, bound=BOUNDS[options.bound], boxed=boxed)
    return {
        "recipe_hash": recipe.hash,
        "model": network.weights_hash(),
        "seconds": round(sum(line["seconds"] for line in read_lines(run.metrics)), 1),
        "test_error": error(network, test),
        "certified_error": open_points[recipe.norm],
    } | indicators(network, test, points[:INDICATED], recipe, options.bound)


def words(arm: dict[str, Any]) -> str:
    """A line about a variant."""
    errors = f"certified error {100 * arm['certified_error']:.2f} %  test error {100 * arm['test_error']:.2f} %"
    return f"{errors}  d {arm['d']:.4g}  r {arm['r']:.4g}  unstable {arm['unstable']}  {arm['seconds']:.0f} s"


def differences(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure, changed minus base: every seed's, their mean and standard deviation."""
    told = {}
    for figure in ("certified_error", "test_error", "d", "r"):
        values = [pair["changed"][figure] - pair["base"][figure] for pair in pairs]
        mean, deviation = spread(values)
        of_mean = None if deviation is None else deviation / math.sqrt(len(values))
        told[figure] = {"values": values, "mean": mean, "sd": deviation, "sd_of_mean": of_mean}
    return told


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    recipe = load_recipe(options.recipe, options.set)
    if recipe.norm == "union":
        raise UsageError(f"{recipe.name} is evaluated in a union of norms", "choose one: --set norm=linf")
    shared = list(options.set)
    if options.images is not None:
        shared.append(f"training.held_out={spec(recipe.dataset).rows['train'] - options.images}")
    test = load_split(recipe.dataset, "test", partial=recipe.partial)
    pairs: list[dict[str, Any]] = []
    for seed in several(options.seeds):
        base, changed = (measured(options, shared + extra, seed, test) for extra in ([], options.change))
        pairs.append({"seed": seed, "base": base, "changed": changed})
        document = {
            "recipe": recipe.name,
            "set": shared,
            "change": options.change,
            "norm": recipe.norm,
            "eps": recipe.eps,
            "bound": options.bound,
            "boxed": test.spec.box is not None,
            "points": min(options.points or len(test), len(test)),
            "difference": differences(pairs),
            "pairs": pairs,
            "provenance": provenance.of_script(),
        }
        write_text(options.out, json.dumps(document, indent=1) + "\n")
        for name, arm in (("base", base), ("changed", changed)):
            print(f"seed {seed}  {name:<7}  {words(arm)}", flush=True)
    found = differences(pairs)["certified_error"]
    deviation = "" if found["sd"] is None else f" +- {100 * found['sd']:.2f}"
    print(f"certified error, difference in points: {100 * found['mean']:+.2f}{deviation} over {len(pairs)} seeds")


if __name__ == "__main__":
    try:
        main()
    except RobustError as problem:
        raise SystemExit(f"error: {problem}") from problem
