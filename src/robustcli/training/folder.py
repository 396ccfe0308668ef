"""The training's files in a run folder: under which recipe they were made, putting them away, cutting metrics back."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from robustcli.errors import RecipeError, UsageError
from robustcli.files import write_text
from robustcli.recipes.model import Recipe
from robustcli.results.runs import RunFolder

IGNORED = {"name", "summary", "origin", "published", "norm"}
"""Keys of a recipe that do not change the trained network; `Recipe.hash` leaves out the same."""
PREVIOUS = "previous"


def changes(old: Recipe, new: Recipe) -> list[str]:
    """The keys that differ and matter, as `training.epochs: 20 -> 30`."""
    before, after = (_flat(recipe.model_dump(mode="json", exclude=IGNORED)) for recipe in (old, new))
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def check_unchanged(run: RunFolder, recipe: Recipe) -> None:
    """Refuse to mix two recipes in one run.

    Raises:
        RecipeError: when the run was started under a recipe that differs; every differing key is named.
    """
    if not (run.finished or run.resume.is_file()):
        return
    stored = run.recipe()
    if stored is None:
        raise RecipeError(f"{run.path} holds a training without its {run.recipe_file.name}", "start anew with --fresh")
    found = changes(stored, recipe)
    if found:
        raise RecipeError(
            f"{run.path} was started under another recipe:\n  " + "\n  ".join(found),
            "start anew with --fresh, undo the change, or use --set, which gives the run a folder of its own",
        )


def put_away(run: RunFolder) -> Path | None:
    """Move the training's files to `previous/` (one level: what was there goes); results and witnesses stay.

    Returns:
        the folder, or None when there was nothing to move.
    Raises:
        UsageError: when the folder cannot be written.
    """
    files = [run.weights, run.resume, run.metrics, run.evaluations, run.recipe_file, run.overrides_file]
    files = [file for file in [*files, *run.path.glob("stage-*.safetensors")] if file.is_file()]
    if not files:
        return None
    target = run.path / PREVIOUS
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in files:
            os.replace(file, target / file.name)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}", "choose another folder with --runs") from error
    return target


def rewind(run: RunFolder, epoch: int) -> None:
    """Drop lines of metrics and evaluations that a crash tore or whose state was lost: those from `epoch` on."""
    for path in (run.metrics, run.evaluations):
        if not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _epoch(line) < epoch]
        if len(kept) < len(lines):
            write_text(path, "".join(line + "\n" for line in kept))


def _epoch(line: str) -> float:
    """The epoch of a line of metrics; infinite for a line torn by a crash."""
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf
