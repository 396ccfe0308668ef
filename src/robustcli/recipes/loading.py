"""YAML + `--set` -> Recipe; every error at once, as `file: key.path: problem`. And back: `dump`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from robustcli.errors import RecipeError
from robustcli.recipes import overrides as changes
from robustcli.recipes.catalogue import names, path_of, recipes_dir
from robustcli.recipes.checks import disagreements, names_and_radii
from robustcli.recipes.model import Recipe
from robustcli.recipes.problems import Problem, explain
from robustcli.recipes.strict_yaml import BadYaml, parse, render

__all__ = ["dump", "find", "load", "names", "read", "recipes_dir"]

RUN_COPY = "recipe.yaml"  # the copy in a run folder, named alike for every recipe


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, with the overrides `key.path=value` applied.

    Args:
        name_or_path: a shipped recipe's name, or a path (it has a `/` or ends in .yaml).
        overrides: texts of `--set`; their order does not matter.

    Raises:
        UnknownNameError: no shipped recipe of that name.
        RecipeError: everything wrong with the file or the overrides, one line each.
    """
    path = find(name_or_path)
    recipe = read(path, overrides)
    if path.name != RUN_COPY and path.stem != recipe.name:
        raise RecipeError(
            f"{path.name}: name: {recipe.name!r} differs from the file's name",
            f"write `name: {path.stem}`, or rename the file to {recipe.name}.yaml",
        )
    return recipe


def find(name_or_path: str | Path) -> Path:
    """The file of a shipped recipe or of a path.

    Raises:
        UnknownNameError: no shipped recipe of that name.
        RecipeError: no such file.
    """
    text = str(name_or_path)
    if not isinstance(name_or_path, Path) and "/" not in text and not text.endswith((".yaml", ".yml")):
        return path_of(text)
    path = Path(text)
    if not path.is_file():
        raise RecipeError(f"no recipe file {text}", "a shipped recipe is given by its name: `robust recipes list`")
    return path


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file of any name, such as the resolved copy in a run folder.

    Raises:
        RecipeError: everything wrong with it, one line each.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"cannot read {path}: {reason}") from error
    return from_text(text, path.name, overrides)


def from_text(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML text; `source` names it in errors.

    Raises:
        RecipeError: everything wrong with it, one line each.
    """
    try:
        data = parse(text)
    except BadYaml as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from error
    if data is None:
        raise RecipeError(
            f"{source}: the file is empty", "see an example with `robust recipes show mnist-fc1-mmr-linf`"
        )
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: must be a mapping of keys to values, not {type(data).__name__}")
    recipe = _validated(data, source, ())
    settings = changes.normalise(overrides)
    if not settings:
        return recipe
    # Set on the resolved recipe, so that `training.optimiser.lr=1e-4` keeps the defaults beside it.
    data, problems = changes.apply(recipe.model_dump(mode="json"), settings)
    if problems:
        _refuse(problems, source, settings)
    return _validated(data, source, settings)


def dump(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that loads back to an equal recipe."""
    return render(recipe.model_dump(mode="json"))


def _validated(data: dict[str, Any], source: str, settings: Iterable[changes.Override]) -> Recipe:
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        _refuse([*explain(error, data), *names_and_radii(data)], source, settings)
    if problems := disagreements(recipe):
        _refuse(problems, source, settings)
    return recipe


def _refuse(problems: list[Problem], source: str, settings: Iterable[changes.Override]) -> NoReturn:
    """Raise one error listing all problems; those at a key that was set name the option rather than the file."""
    settings = list(settings)
    lines = []
    for problem in problems:
        mine = any(_meet(problem, override) for override in settings)
        lines.append(f"{'--set' if mine else source}: {problem}")
    replaced = any(len(setting.path) > 1 and setting.path[-1] == "name" for setting in settings)
    raise RecipeError("\n".join(lines), KIND_HINT if replaced else None)


KIND_HINT = "to change a method, optimiser or schedule, set the whole of it: --set 'method={name: at, norms: [linf]}'"


def _meet(problem: Problem, override: changes.Override) -> bool:
    path, other = tuple(map(str, problem.path)), tuple(map(str, override.path))
    depth = min(len(path), len(other))
    return path[:depth] == other[:depth]
