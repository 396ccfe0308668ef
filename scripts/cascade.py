"""Cascades of robustly trained networks (Wong, Schmidt, Metzen and Kolter 2018, section 3.3).

    python scripts/cascade.py --recipe mnist-2x100-kw-linf --stages 3 --images 10000 --set training.epochs=10

The first network is the recipe's. Each further one is trained on the training points whose predicted class none of
those before it certifies. For a new point the first network that certifies its own prediction answers, the last one
where none does. Counted as an error is a wrong answer, as a robust error a wrong one or one that no network certifies.

What is certified is the network that answers: it gives the same class all over the ball. At another point of the ball
an earlier or later network of the cascade may be the one that answers: about the cascade as a function of its input
nothing is proved. (That is how the paper counts, too.)

Each stage is a run of `robust train` in a folder below --runs, on arrays written there; the same command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.data.datasets import Split
from robustcli.data.datasets import load as load_split
from robustcli.data.specs import spec
from robustcli.errors import RobustError, UsageError
from robustcli.evaluation.certify import BOUNDS
from robustcli.files import write_text
from robustcli.networks import checkpoints
from robustcli.networks.network import Network
from robustcli.norms import exponent
from robustcli.recipes.loading import load as load_recipe
from robustcli.recipes.model import Recipe
from robustcli.results import provenance
from robustcli.training.held_out import BATCH, certified
from robustcli.training.loop import Silent
from robustcli.training.runs import Request, train


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--stages", type=int, default=3, metavar="N", help="networks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override for all stages")
    parser.add_argument("--images", type=int, metavar="N", help="the first N training images. (default: all)")
    parser.add_argument("--points", type=int, metavar="N", help="the first N test points. (default: all)")
    parser.add_argument("--bound", default="dual", choices=sorted(BOUNDS), help="what certifies")
    parser.add_argument("--no-box", action="store_true", help="balls that are not cut with the input box")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs-cascade"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("cascade.json"))
    return parser.parse_args(given)


@dataclass(frozen=True)
class Points:
    """Rows of a split: float64 points and labels."""

    points: Tensor
    labels: Tensor

    @classmethod
    def of(cls, split: Split, count: int | None) -> Points:
        index = range(len(split))[:count]
        return cls(split.points(index, dtype=torch.float64), split.labels_tensor(index))

    def take(self, rows: Tensor) -> Points:
        return Points(self.points[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """As a data set of one's own holds them."""
        return {"images": self.points.float().numpy(), "labels": self.labels.numpy()}


@dataclass(frozen=True)
class Answers:
    """What a network says about points: its predictions, and whether it certifies them."""

    predicted: Tensor
    certified: Tensor


@torch.no_grad()
def asked(network: Network, found: Points, recipe: Recipe, bound: str, box: tuple[float, float] | None) -> Answers:
    """Predictions, and which of them the bound proves constant on the ball."""
    exact, predicted, sure = network.double(), [], []
    for rows in torch.arange(len(found)).split(BATCH):
        points = found.points[rows]
        predicted.append(exact(points).argmax(1))
        ball = Ball.around(points, recipe.eps[recipe.norm], exponent(recipe.norm), box)
        sure.append(certified(exact, ball, predicted[-1], BOUNDS[bound]))
    return Answers(torch.cat(predicted), torch.cat(sure))


def trained(options: argparse.Namespace, place: Path, images: Points, test: Points) -> Network:
    """The network of a stage, trained on these images now where that is not done yet."""
    if not (place / "train.npz").exists():
        known = spec(load_recipe(options.recipe, options.set).dataset)
        place.mkdir(parents=True, exist_ok=True)
        declared = {"layout": "NCHW", "scale": 1.0, "box": known.box or "none", "classes": known.classes}
        write_text(place / "dataset.json", json.dumps(declared))
        np.savez(place / "test.npz", **test.arrays())
        np.savez(place / "train.part.npz", **images.arrays())
        (place / "train.part.npz").rename(place / "train.npz")
    overrides = [*options.set, f"dataset=npz:{place}"]
    recipe = load_recipe(options.recipe, overrides)
    request = Request(recipe, tuple(overrides), options.seed, place / "runs", options.device, options.threads)
    ended = train(request, Silent(), print)
    if not ended.run.finished:
        raise SystemExit("stopped; the same command goes on")
    return checkpoints.load(ended.run.weights).network


def figures(stages: list[Answers], labels: Tensor) -> dict[str, Any]:
    """Errors of the cascade of all these stages, and how many points each of them answers."""
    answering = torch.full_like(labels, len(stages) - 1)
    for number in reversed(range(len(stages))):
        answering = torch.where(stages[number].certified, number, answering)
    predicted = torch.stack([stage.predicted for stage in stages]).gather(0, answering.unsqueeze(0))[0]
    sure = torch.stack([stage.certified for stage in stages]).any(0)
    wrong = predicted != labels
    return {
        "error": float(wrong.double().mean()),
        "robust_error": float((wrong | ~sure).double().mean()),
        "answers": [int((answering == number).sum()) for number in range(len(stages))],
    }


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    recipe = load_recipe(options.recipe, options.set)
    if recipe.norm == "union":
        raise UsageError(f"{recipe.name} is evaluated in a union of norms", "choose one: --set norm=linf")
    splits = [load_split(recipe.dataset, split, partial=recipe.partial) for split in ("train", "test")]
    images, test = Points.of(splits[0], options.images), Points.of(splits[1], options.points)
    box = None if options.no_box else splits[1].spec.box
    sizes, answers, rows = [], [], []
    for number in range(options.stages):
        network = trained(options, options.runs / recipe.name / f"stage-{number + 1}", images, test)
        sizes.append(len(images))
        answers.append(asked(network, test, recipe, options.bound, box))
        rows.append({"trained_on": sizes[-1], "model": network.weights_hash()} | figures(answers, test.labels))
        document = {
            "recipe": recipe.name,
            "set": options.set,
            "norm": recipe.norm,
            "eps": recipe.eps,
            "bound": options.bound,
            "boxed": box is not None,
            "points": len(test),
            "cascades": rows,
            "provenance": provenance.of_script(),
        }
        write_text(options.out, json.dumps(document, indent=1) + "\n")
        told = "error {error:.2%}  robust error {robust_error:.2%}  answers {answers}".format(**rows[-1])
        print(f"{number + 1} networks, the last trained on {sizes[-1]} images  {told}", flush=True)
        images = images.take(~asked(network, images, recipe, options.bound, box).certified)
        if not len(images):
            print("every training point is certified: no further stage")
            break


if __name__ == "__main__":
    try:
        main()
    except RobustError as problem:
        raise SystemExit(f"error: {problem}") from problem
