"""Which settings train best? Every combination is trained on a part of the training split and ranked on the rest.

    python scripts/search_interval.py --recipe mnist-cnn-ibp-union --held-out 5000 --set training.epochs=20 \\
        --try method.eps_factor=1.1,1.3,1.5 --try method.kappa.end=0.3,0.5 --seeds 0,1 --out search.json

Each combination is a run of `robust train` with `training.held_out`, in a folder of its own below --runs. So the same
command goes on where it was stopped, and a wider grid trains only what is new; figures that --out holds already, from
the same commit, are taken from there. Ranked by the share of the held-out rows that is not certified, in the recipe's
norm, mean over the seeds; test points are never looked at for that. The document is written anew after every run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from robustcli.data.datasets import Split
from robustcli.data.datasets import load as load_split
from robustcli.data.division import divided
from robustcli.errors import RecipeError, RobustError, UsageError
from robustcli.evaluation.certify import BOUNDS
from robustcli.files import read_lines, write_text
from robustcli.library.questions import certify
from robustcli.networks import checkpoints
from robustcli.networks.network import Network, margins
from robustcli.recipes.loading import load as load_recipe
from robustcli.recipes.model import Recipe
from robustcli.results import provenance
from robustcli.results.runs import RunFolder
from robustcli.training.held_out import certified_errors
from robustcli.training.loop import Silent
from robustcli.training.runs import Request, train


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all combinations")
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="KEY=A,B,...", help="one axis")
    parser.add_argument("--sample", type=int, metavar="N", help="only N combinations, drawn at random")
    parser.add_argument("--held-out", type=int, default=5000, metavar="ROWS")
    parser.add_argument("--seeds", default="0", help="e.g. 0,1,2")
    parser.add_argument("--bound", default="interval", choices=sorted(BOUNDS), help="what certifies held-out points")
    parser.add_argument("--complete", type=float, metavar="SECONDS", help="decide points completely, this long each")
    parser.add_argument("--points", type=int, help="rank on the first N held-out rows. (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs-search"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("search.json"))
    return parser.parse_args(given)


def parted(values: str) -> list[str]:
    """The values of an axis, separated by commas that stand in no brackets."""
    found: list[str] = []
    whole = True
    for piece in values.split(","):
        found = [*found, piece] if whole else [*found[:-1], f"{found[-1]},{piece}"]
        whole = sum(map(found[-1].count, "{[")) == sum(map(found[-1].count, "}]"))
    return found


def combinations(options: argparse.Namespace) -> list[list[str]]:
    """The overrides of every combination.

    Raises:
        UsageError: when an axis is not of the form key=a,b.
    """
    axes: list[list[str]] = []
    for text in options.tried:
        key, _, values = text.partition("=")
        if not values:
            raise UsageError(f"--try {text}: not of the form key=a,b,...")
        axes.append([f"{key}={value}" for value in parted(values)])
    found = [list(chosen) for chosen in itertools.product(*axes)]
    if options.sample is not None and options.sample < len(found):
        found = random.Random(0).sample(found, options.sample)
    return found


def telling(name: str, overrides: list[str]) -> list[str]:
    """The overrides without those that change nothing: grids that meet in a combination share its run."""
    whole, kept = load_recipe(name, overrides), list(overrides)
    for place in reversed(range(len(kept))):
        rest = kept[:place] + kept[place + 1 :]
        with suppress(RecipeError):  # without it, the others are no recipe
            kept = rest if load_recipe(name, rest) == whole else kept
    return kept


def trained(options: argparse.Namespace, overrides: list[str], seed: int) -> tuple[Recipe, RunFolder]:
    """The finished run of a combination, trained now where that is not done yet; its test errors are not shown."""
    recipe = load_recipe(options.recipe, overrides)
    changes = tuple(telling(options.recipe, overrides))
    request = Request(recipe, changes, seed, options.runs, options.device, options.threads)
    ended = train(request, Silent(), print)
    if not ended.run.finished:
        raise SystemExit("stopped; the same command goes on")
    return recipe, ended.run


def figures(
    recipe: Recipe, network: Network, bound: str, seconds: float | None, points: int | None
) -> dict[str, float]:
    """Error and certified errors on the held-out rows; `seconds` a point for complete verification, or None."""
    split = load_split(recipe.dataset, "train", partial=recipe.partial)
    index = divided(split.labels, recipe.training.held_out)[1][:points]
    clean = margins(network.double()(split.points(index)), split.labels_tensor(index))
    radii = {str(norm): eps for norm, eps in recipe.eps.items()}
    if seconds is not None:
        found = decided(network, split, index, radii, seconds)
    else:
        boxed = ["linf"] if bound == "interval" else list(radii)
        found = certified_errors(network, split, index, radii, bound=BOUNDS[bound], boxed=boxed)
    return {"error": float((clean <= 0).double().mean())} | found


def decided(
    network: Network, split: Split, index: np.ndarray, radii: dict[str, float], seconds: float
) -> dict[str, float]:
    """Share of the rows not proved robust by complete verification, in each norm and, of several, in all of them."""
    points, labels = split.points(index), split.labels_tensor(index)
    proved = {
        norm: [
            verdict == "robust"
            for verdict in certify(
                network, points, labels, norm=norm, eps=eps, box=split.spec.box, complete=True, time_limit=seconds
            ).verdicts
        ]
        for norm, eps in radii.items()
    }
    errors = {norm: 1 - sum(found) / len(index) for norm, found in proved.items()}
    if len(radii) > 1:
        errors["union"] = 1 - sum(map(all, zip(*proved.values(), strict=True))) / len(index)
    return errors


def question(options: argparse.Namespace, eps: dict[str, float]) -> dict[str, Any]:
    """What the held-out rows are asked, as the document states it."""
    return {
        "held_out": options.held_out,
        "points": options.points or options.held_out,
        "bound": options.bound if options.complete is None else f"complete, {options.complete:g} s a point",
        "eps": eps,
    }


def answered(document: Path, asked: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Figures of an earlier document by the hash of the network, if the same commit was asked the same there.

    Sources that differ from their commit, or have none, may have changed in between: nothing is taken over.
    """
    commit = provenance.commit()
    if commit is None or commit.endswith("+changes"):
        return {}
    try:
        found = json.loads(document.read_text())
        if found["provenance"]["commit"] != commit or {key: found[key] for key in asked} != asked:
            return {}
        return {answer["model"]: answer["held_out"] for answer in found["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def searched(options: argparse.Namespace, known: dict[str, dict[str, float]]) -> Iterator[list[dict[str, Any]]]:
    """The list of all answers so far, after every run; `known` figures, by network, are not found again."""
    answers: list[dict[str, Any]] = []
    shared = [*options.set, f"training.held_out={options.held_out}"]
    for chosen in combinations(options):
        for seed in map(int, options.seeds.split(",")):
            recipe, run = trained(options, [*shared, *chosen], seed)
            network = checkpoints.load(run.weights).network
            model = network.weights_hash()
            answers.append(
                {
                    "tried": chosen,
                    "seed": seed,
                    "recipe_hash": recipe.hash,
                    "model": model,
                    "seconds": round(sum(line["seconds"] for line in read_lines(run.metrics)), 1),
                    "held_out": known.get(model)
                    or figures(recipe, network, options.bound, options.complete, options.points),
                }
            )
            yield answers


def ranking(answers: list[dict[str, Any]], norm: str) -> list[dict[str, Any]]:
    """Combinations with their means over the seeds, best first."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for answer in answers:
        groups.setdefault(tuple(answer["tried"]), []).append(answer["held_out"])
    means = [
        {"tried": list(tried), "seeds": len(found)}
        | {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        for tried, found in groups.items()
    ]
    return sorted(means, key=lambda mean: mean[norm])


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    recipe = load_recipe(options.recipe, options.set)
    asked = question(options, {str(norm): eps for norm, eps in recipe.eps.items()})
    for answers in searched(options, answered(options.out, asked)):
        best = ranking(answers, recipe.norm)
        document = {
            "recipe": recipe.name,
            "set": options.set,
            "norm": recipe.norm,
            **asked,
            "ranking": best,
            "runs": answers,
            "provenance": provenance.of_script(),
        }
        write_text(options.out, json.dumps(document, indent=1) + "\n")
        found = answers[-1]
        words = "  ".join(f"{name} {100 * value:.2f} %" for name, value in found["held_out"].items())
        print(f"{' '.join(found['tried'])}  seed {found['seed']}  {words}", flush=True)
    print("best:", " ".join(best[0]["tried"]), f"{100 * best[0][recipe.norm]:.2f} %")


if __name__ == "__main__":
    try:
        main()
    except RobustError as error:
        raise SystemExit(f"error: {error}") from error
