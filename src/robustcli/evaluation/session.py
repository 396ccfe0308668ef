"""Which network, which data and which points a command works on: names and options resolved to objects, once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from robustcli.data.datasets import Split
from robustcli.data.datasets import load as load_split
from robustcli.data.specs import Spec
from robustcli.devices import choose
from robustcli.errors import CheckpointError, UsageError
from robustcli.networks import shipped
from robustcli.networks.checkpoints import Checkpoint
from robustcli.networks.checkpoints import load as load_checkpoint
from robustcli.networks.network import Network
from robustcli.norms import NORMS, any_exponent, check_eps, norm_name, positive_radius
from robustcli.recipes.loading import load as load_recipe
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder, newest, run_folder, runs_root


@dataclass(frozen=True)
class Selection:
    """The options every evaluation command shares, as typed; None where the user left the choice to us."""

    recipe: str | None = None
    checkpoint: Path | None = None
    seed: int = 0
    runs: Path | None = None
    dataset: str | None = None
    partial: bool = False
    norm: str | None = None
    eps: str | None = None
    boxed: bool | None = None
    points: str = "1000"
    shard: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    out: Path | None = None
    overrides: Sequence[str] = ()
    max_seconds: float | None = None


@dataclass(frozen=True)
class Session:
    """A resolved selection.

    Args:
        network: as stored (float32), evaluation mode, on the device.
        exact: its float64 copy, which every verdict is about.
        data: the test split.
        run: the folder results go to.
        source: one line for the user: what was taken, and from where.
    """

    selection: Selection
    checkpoint: Checkpoint
    recipe: Recipe | None
    network: Network
    exact: Network
    data: Split
    run: RunFolder
    source: str
    indices: list[int]
    shard: tuple[int, int] | None
    device: torch.device
    model_hash: str = field(default="")

    @property
    def spec(self) -> Spec:
        """The data set."""
        return self.data.spec

    def box(self) -> tuple[float, float] | None:
        """The input box in force: the data set's, unless `--no-box`.

        Raises:
            UsageError: for `--box` where the data set has none.
        """
        if self.selection.boxed and self.spec.box is None:
            raise UsageError(f"data set {self.spec.name} has no input box", "leave out --box")
        return None if self.selection.boxed is False else self.spec.box

    def norms(self, default: str = "linf", single: bool = False) -> list[str]:
        """The norms asked for: one, or all three for `union`.

        Args:
            default: taken when neither the command line nor the recipe names one.
            single: whether the command only knows one norm at a time.
        """
        asked = self.selection.norm or (self.recipe.norm if self.recipe else self.checkpoint_norm()) or default
        if asked == "union" and not single:
            return list(NORMS)
        if asked == "union":
            asked = default
        return [norm_name(any_exponent(asked))]

    def checkpoint_norm(self) -> str | None:
        """The norm an imported model was trained for, if its metadata says."""
        norm = self.checkpoint.metadata.norm
        return norm if norm in NORMS else None

    def eps(self, norm: str) -> float:
        """The radius for a norm: `--eps`, else the recipe's, else the data set's.

        Raises:
            UsageError: when it is not usable, or there is none.
        """
        chosen: str | float | None = self.selection.eps
        if chosen is None and self.recipe is not None:
            chosen = dict(self.recipe.eps).get(norm)  # type: ignore[call-overload]
        if chosen is None and self.checkpoint.metadata.norm == norm:
            chosen = self.checkpoint.metadata.eps
        if chosen is None:
            chosen = self.spec.eps.get(norm)
        if chosen is None:
            raise UsageError(f"no radius known for {norm} on {self.spec.name}", "give one with --eps")
        dimension = self.exact.blocks[0].layers[0].in_shape
        return check_eps(chosen, any_exponent(norm), int(torch.Size(dimension).numel()), self.spec.box)


def open_session(selection: Selection) -> Session:
    """Resolve a selection.

    Raises:
        UsageError, RecipeError, CheckpointError, DataError: with what to do about it.
    """
    device = choose(selection.device)
    shard = parse_shard(selection.shard)
    if selection.eps is not None:
        positive_radius(selection.eps)  # what is wrong on the command line is said before a missing file is
    root = selection.runs or runs_root()
    checkpoint, recipe, run, source = _find_model(selection, root)
    network = checkpoint.network.to(device).eval().requires_grad_(False)
    dataset = selection.dataset or (recipe.dataset if recipe else checkpoint.metadata.dataset)
    if dataset is None:
        raise UsageError(f"{source}: the checkpoint does not say which data it is for", "name it with --dataset")
    partial = selection.partial or bool(recipe and recipe.partial)
    data = load_split(dataset, "test", partial=partial)
    if tuple(data.spec.input_shape) != network.input_shape or data.spec.classes != network.classes:
        raise CheckpointError(
            f"{source} takes inputs {list(network.input_shape)} for {network.classes} classes, "
            f"but {data.spec.name} has {list(data.spec.input_shape)} and {data.spec.classes}",
            "give the data set the network was trained on with --dataset",
        )
    indices = parse_points(selection.points, len(data))
    if shard is not None:
        indices = indices[shard[0] - 1 :: shard[1]]
    return Session(
        selection=selection,
        checkpoint=checkpoint,
        recipe=recipe,
        network=network,
        exact=network.double(),
        data=data,
        run=RunFolder(selection.out) if selection.out else run,
        source=source,
        indices=indices,
        shard=shard,
        device=device,
        model_hash=network.weights_hash(),
    )


def _find_model(selection: Selection, root: Path) -> tuple[Checkpoint, Recipe | None, RunFolder, str]:
    if selection.checkpoint is not None:
        if selection.recipe is not None:
            raise UsageError("--recipe and --checkpoint both name a network", "give one of them")
        return _from_checkpoint(selection.checkpoint, selection.runs, root)
    if selection.recipe is None:
        run = newest(root)
        checkpoint = load_checkpoint(run.weights)
        return checkpoint, run.recipe(), run, f"newest run {run.path}"
    imported = RunFolder(root / selection.recipe / f"seed-{selection.seed}")
    if imported.finished and not imported.recipe_file.exists() and not selection.overrides:
        return load_checkpoint(imported.weights), None, imported, f"imported model {imported.path}"
    recipe = load_recipe(selection.recipe, selection.overrides)
    run = run_folder(root, recipe, selection.overrides, selection.seed)
    if run.finished:
        checkpoint, source = load_checkpoint(run.weights), f"run {run.path}"
    elif (path := shipped.find(recipe.name)) is not None and not selection.overrides:
        checkpoint, source = load_checkpoint(path), f"shipped model {path.name}"
    else:
        raise CheckpointError(
            f"recipe {recipe.name} has no trained network in {root}",
            f"train it first: robust train --recipe {selection.recipe}"
            + "".join(f" --set {item}" for item in selection.overrides)
            + (f" --seed {selection.seed}" if selection.seed else ""),
        )
    trained = checkpoint.metadata.recipe_hash
    if trained is not None and trained != recipe.hash:
        raise CheckpointError(
            f"{source} was trained by another version of recipe {recipe.name}",
            "train again with --fresh, or name the file with --checkpoint",
        )
    return checkpoint, recipe, run, source


def _from_checkpoint(path: Path, asked: Path | None, root: Path) -> tuple[Checkpoint, Recipe | None, RunFolder, str]:
    """A checkpoint inside a run folder is answered there, unless another folder for runs was asked for."""
    path = path / "weights.safetensors" if path.is_dir() else path
    checkpoint = load_checkpoint(path)
    own = RunFolder(path.parent)
    if path.name == own.weights.name and own.seed is not None:
        elsewhere = asked is not None and not path.resolve().is_relative_to(asked.resolve())
        run = RunFolder(root / own.path.parent.name / own.path.name) if elsewhere else own
        return checkpoint, own.recipe(), run, f"checkpoint {path}"
    return checkpoint, None, RunFolder(root / path.stem / f"seed-{checkpoint.metadata.seed or 0}"), f"checkpoint {path}"


def parse_points(text: str, available: int) -> list[int]:
    """`N` (the first N) or `a:b` (rows a to b-1 of the stored test order); `all` for every row.

    Raises:
        UsageError: when it is neither, empty, or beyond the data. The default of 1000 stops at the end of the data.
    """
    if text == "all":
        return list(range(available))
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text.replace("_", "").strip())
    if not match:
        raise UsageError(f"--points {text!r} is neither a number nor a range", "write 500, 200:300 or all")
    first, end = int(match[1] or 0), int(match[2])
    if end <= first:
        raise UsageError(f"--points {text} asks for no point")
    if end > available and text != Selection.points:
        raise UsageError(f"--points {text} goes beyond the {available} test points", f"use at most {available}, or all")
    return list(range(first, min(end, available)))


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`i/n` with 1 <= i <= n.

    Raises:
        UsageError: otherwise.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text!r} is not i/n with 1 <= i <= n", "write 1/4, 2/4, 3/4 and 4/4")
    return int(match[1]), int(match[2])
