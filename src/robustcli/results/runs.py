"""Where a run lives: `runs/<recipe>[+hash of the overrides]/seed-N/`, and which runs there are.

weights.safetensors   the network and its metadata (there once training is finished or a model is imported)
recipe.yaml           the resolved recipe (absent for imported models)
overrides.json        the `--set` overrides, as typed
metrics.jsonl         one line an epoch
evaluations.jsonl     one line an evaluation during training
stage-N.safetensors   the network after a stage but the last, of methods that train in stages
resume.safetensors    the state of an unfinished training
results/, witnesses/  see `robustcli.results.schema`
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcli.errors import CheckpointError, RecipeError, one_line
from robustcli.recipes.model import Recipe
from robustcli.recipes.overrides import canonical
from robustcli.results.schema import Question

_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """One run: paths of its files, none of which needs to exist yet."""

    path: Path

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def overrides_file(self) -> Path:
        return self.path / "overrides.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def resume(self) -> Path:
        return self.path / "resume.safetensors"

    def stage_weights(self, number: int) -> Path:
        """The network after stage 1, 2, ... of a training in stages, the last one left out."""
        return self.path / f"stage-{number}.safetensors"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def witnesses(self) -> Path:
        return self.path / "witnesses"

    @property
    def name(self) -> str:
        """Recipe or model name, with the hash of the overrides if there are any."""
        path = Path(os.path.abspath(self.path))
        return path.parent.name if _SEED.fullmatch(path.name) else path.name

    @property
    def seed(self) -> int | None:
        """The seed in the folder name; None for a folder that is not named `seed-N`."""
        match = _SEED.fullmatch(Path(os.path.abspath(self.path)).name)
        return int(match[1]) if match else None

    @property
    def finished(self) -> bool:
        """Whether the weights exist."""
        return self.weights.is_file()

    def question_dir(self, question: Question) -> Path:
        """The folder of all answers to `question`."""
        return self.results / question.slug

    def question_dirs(self) -> list[Path]:
        """The folders of all questions asked so far, by name."""
        return sorted(path.parent for path in self.results.glob("*/question.json"))

    def recipe(self) -> Recipe | None:
        """The resolved recipe, or None for an imported model.

        Raises:
            RecipeError: when recipe.yaml is there but cannot be read.
        """
        if not self.recipe_file.is_file():
            return None
        import yaml
        from pydantic import ValidationError

        try:
            return Recipe.model_validate(yaml.safe_load(self.recipe_file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise RecipeError(
                f"cannot read {self.recipe_file}: {one_line(error)}", "restore the file or train again"
            ) from error

    def overrides(self) -> list[str]:
        """The `--set` overrides of this run, as typed; empty when there were none."""
        if not self.overrides_file.is_file():
            return []
        try:
            return [str(item) for item in json.loads(self.overrides_file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise RecipeError(
                f"cannot read {self.overrides_file}: {one_line(error)}", "it must hold a JSON list"
            ) from error


def runs_root() -> Path:
    """Where runs live: `$ROBUST_RUNS_DIR`, else `./runs`."""
    return Path(os.environ.get("ROBUST_RUNS_DIR") or "runs")


def overrides_hash(overrides: Sequence[str]) -> str:
    """8 hex digits naming a set of overrides `key=value`: neither order nor spelling (1e-3, 0.001) matters."""
    return hashlib.sha256(json.dumps(canonical(overrides)).encode()).hexdigest()[:8]


def run_folder(root: Path, recipe: Recipe, overrides: Sequence[str], seed: int) -> RunFolder:
    """The folder of one run: `<root>/<recipe.name>[+8 hex of the overrides]/seed-<seed>`."""
    name = f"{recipe.name}+{overrides_hash(overrides)}" if overrides else recipe.name
    return RunFolder(Path(root) / name / f"seed-{seed}")


def is_run(path: Path) -> bool:
    """Whether a folder holds anything that a run writes."""
    run = RunFolder(path)
    files = (run.weights, run.recipe_file, run.metrics, run.resume)
    return any(file.is_file() for file in files) or bool(run.question_dirs())


def runs_in(path: Path) -> list[RunFolder]:
    """The runs a folder stands for: itself, its seeds, or everything below a root."""
    if is_run(path):
        return [RunFolder(path)]
    seeds = [run for run in all_runs(path.parent) if run.path.parent == path]
    return seeds or all_runs(path)


def all_runs(root: Path) -> list[RunFolder]:
    """Every run below `root`, by name and seed; folders that are something else are left alone."""
    try:
        found = [
            RunFolder(path)
            for folder in Path(root).iterdir()
            if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
            for path in folder.iterdir()
            if _SEED.fullmatch(path.name) and path.is_dir() and is_run(path)
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda run: (run.name, run.seed or 0))


def newest(root: Path) -> RunFolder:
    """The finished run whose weights were written last.

    Raises:
        CheckpointError: when there is no finished run.
    """
    finished = [run for run in all_runs(root) if run.finished]
    if not finished:
        raise CheckpointError(
            f"no finished run in {root}",
            "train one with `robust train --recipe NAME`, or name a file with --checkpoint",
        )
    return max(finished, key=lambda run: run.weights.stat().st_mtime_ns)
