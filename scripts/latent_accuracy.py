"""How a network trained in stages withstands latent attacks, layer by layer and stage by stage (002, Fig. 3).

    python scripts/latent_accuracy.py runs/mnist-convmed-colt-linf-0.1/seed-0 --points 1000 --out latent.json

Layer k is the zonotope behind the first k ReLUs over the linf ball around a test point (layer 0: the ball itself), with
exact bounds. Its accuracy is the share of the points whose zonotope holds no misclassified point that PGD on the error
terms finds; misclassified test points count as found. 002 takes 150 steps of 0.01. Stages 1, 2, ... are the networks
that `robust train` keeps in the run folder; the last one is the finished network.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from robustcli.balls import Ball
from robustcli.bounds.latent import Region, above
from robustcli.data.datasets import Split
from robustcli.data.datasets import load as load_split
from robustcli.errors import RobustError, UsageError
from robustcli.files import write_text
from robustcli.networks import checkpoints
from robustcli.networks.network import Network, margins
from robustcli.norms import radius
from robustcli.recipes.methods import LatentAttack
from robustcli.results import provenance
from robustcli.results.runs import RunFolder
from robustcli.training.colt.attack import latent_points
from robustcli.training.colt.bounding import exact
from robustcli.training.randomness import generator


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a training, finished or not")
    parser.add_argument("--points", type=int, default=1000, help="the first N test points")
    parser.add_argument("--eps", type=radius, help="radius. (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--step-size", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=100, help="points at once")
    parser.add_argument("--seed", type=int, default=0, help="of the random starts")
    parser.add_argument("--out", type=Path, default=Path("latent.json"))
    return parser.parse_args(given)


def checkpoints_in(run: RunFolder) -> list[checkpoints.Checkpoint]:
    """The networks after stages 1, 2, ...

    Raises:
        UsageError: when the folder holds none.
    """
    paths: list[Path] = []
    while (path := run.stage_weights(len(paths) + 1)).is_file():
        paths.append(path)
    paths += [run.weights] if run.finished else []
    if not paths:
        raise UsageError(f"{run.path} holds no trained network", "name the folder of a training: runs/RECIPE/seed-N")
    return [checkpoints.load(path) for path in paths]


def accuracies(network: Network, split: Split, eps: float, options: argparse.Namespace) -> list[float]:
    """The accuracy at layers 0 to L - 1, of L hidden ones."""
    layers = len(network.blocks) - 1
    network.requires_grad_(False)
    held = torch.zeros(layers)
    attack = LatentAttack(steps=options.steps + 1, step_size=options.step_size)
    for chosen in torch.arange(min(options.points, len(split))).split(options.batch):
        points = split.points(chosen, dtype=torch.float32, device=network.device)
        labels = split.labels_tensor(chosen, device=network.device)
        ball = Ball.around(points, eps, float("inf"), split.spec.box)
        right = margins(network(points), labels) > 0
        bounds = exact(network, ball, layers - 1, None) if layers > 1 else []
        for depth in range(layers):
            noise = generator(options.seed, "latent", depth, int(chosen[0]), device=network.device)
            found = latent_points(network, Region.of(network, ball, bounds[:depth]), labels, attack, noise)
            held[depth] += (right & (margins(above(network, depth, found), labels) > 0)).sum().cpu()
    return (held / min(options.points, len(split))).tolist()


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    run = RunFolder(options.run)
    found = checkpoints_in(run)
    recipe, metadata = run.recipe(), found[0].metadata
    eps = options.eps or (recipe.eps.get("linf") if recipe else None)
    if eps is None or metadata.dataset is None:
        raise UsageError(f"{run.path} tells no radius or no data set", "give --eps; only trained runs know their data")
    split = load_split(metadata.dataset, "test", partial=recipe is not None and recipe.partial)
    stages = {}
    for number, checkpoint in enumerate(found, 1):
        stages[number] = accuracies(checkpoint.network, split, eps, options)
        print(f"stage {number}  " + "  ".join(f"layer {k}: {100 * v:.1f} %" for k, v in enumerate(stages[number])))
    document: dict[str, Any] = {
        "run": run.name,
        "models": [checkpoint.network.weights_hash() for checkpoint in found],
        "overrides": run.overrides(),
        "norm": "linf",
        "eps": eps,
        "points": min(options.points, len(split)),
        "steps": options.steps,
        "step_size": options.step_size,
        "accuracy": {str(number): found for number, found in stages.items()},
        "provenance": provenance.of_script(),
    }
    write_text(options.out, json.dumps(document, indent=2) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    try:
        main()
    except RobustError as error:
        raise SystemExit(f"error: {error}") from error
