"""`--set key.path=value`: read, put into one order, applied to a recipe's data.

The value is YAML (`1e-3`, `2/255`, `[l1, linf]`, `{name: plain}`). The order on the command line does not matter: a
mapping is replaced before keys inside it are set, and one key set to two different values is an error.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from robustcli.errors import RecipeError
from robustcli.recipes.problems import Path, Problem, dotted
from robustcli.recipes.strict_yaml import BadYaml, parse


@dataclass(frozen=True)
class Override:
    """One assignment: key path and value."""

    path: Path
    value: Any

    def __str__(self) -> str:
        """The same text for the same assignment, however it was written: `method.gamma=0.1`."""
        return f"{dotted(self.path)}={json.dumps(self.value, sort_keys=True, ensure_ascii=False)}"


def read(text: str) -> Override:
    """One `key.path=value`.

    Raises:
        RecipeError: no `=`, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {text}: not of the form key=value (for instance training.epochs=20)")
    if path[0] == "name":
        raise RecipeError(f"--set {text}: a recipe's name cannot be set; copy the file under another name")
    try:
        return Override(path, parse(value))
    except BadYaml as error:
        raise RecipeError(f"--set {text}: the value is not YAML ({error})") from error


def normalise(texts: Iterable[str]) -> list[Override]:
    """The overrides sorted by key path, each once.

    Raises:
        RecipeError: from `read`, all of them at once, or one key set to two values.
    """
    found: dict[Path, Override] = {}
    problems = []
    for text in texts:
        try:
            override = read(text)
        except RecipeError as error:
            problems.append(error.message)
            continue
        before = found.setdefault(override.path, override)
        if str(before) != str(override):
            problems.append(f"--set {dotted(override.path)}: set twice, to {before.value!r} and {override.value!r}")
    if problems:
        raise RecipeError("\n".join(problems))
    return sorted(found.values(), key=lambda override: tuple(map(str, override.path)))


def canonical(texts: Iterable[str]) -> list[str]:
    """The overrides as texts that are equal whenever the assignments are: for run folders and results."""
    return [str(override) for override in normalise(texts)]


def apply(data: dict[str, Any], overrides: Iterable[Override]) -> tuple[dict[str, Any], list[Problem]]:
    """A copy of `data` with the values set, and what could not be set. Missing mappings are made on the way."""
    data = copy.deepcopy(data)
    problems = []
    for override in overrides:
        here: Any = data
        for depth, part in enumerate(override.path):
            last = depth == len(override.path) - 1
            if isinstance(here, list):
                if not str(part).isdecimal() or int(part) >= len(here):
                    known = f"0 to {len(here) - 1}" if here else "none"
                    problems.append(Problem(override.path, f"no item {part!r} in this list (items: {known})"))
                    break
                part = int(part)
            elif not isinstance(here, dict):
                above = dotted(override.path[:depth])
                problems.append(Problem(override.path, f"{above} is {here!r}, not a mapping; set {above} itself"))
                break
            if last:
                here[part] = override.value
            else:
                if isinstance(here, dict) and here.get(part) is None:
                    here[part] = {}
                here = here[part]
    return data, problems
