"""What is wrong with a recipe, one line a problem: `key.path: problem (did you mean ...?)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from robustcli.errors import nearest
from robustcli.recipes.model import Recipe

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """A key's path, and what is wrong there."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


def dotted(path: Path) -> str:
    """`("published", 0, "eps")` -> `published.0.eps`."""
    return ".".join(str(part) for part in path)


def explain(error: ValidationError, data: Any) -> list[Problem]:
    """The errors of `Recipe.model_validate(data)`, in the words of a recipe's author."""
    problems = [_problem(item, data) for item in error.errors(include_url=False) if not _in_union(item)]
    unions: dict[Path, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        if _in_union(item):
            unions.setdefault(_locate(item["loc"], data)[0], []).append(item)
    for path, items in unions.items():
        known = [name for item in items for name in _expected(item)]
        given = items[0]["input"]
        problems.append(
            Problem(path, f"must be one of {', '.join(known)}, not {given!r}{_near(str(given), known, ask=False)}")
        )
    return problems


def _in_union(item: ErrorDetails) -> bool:
    """Whether this is one of several errors for the branches of one union of literals."""
    return item["type"] == "literal_error" and str(item["loc"][-1]).startswith("literal[")


def _expected(item: ErrorDetails) -> list[str]:
    """The allowed values of a literal."""
    return [part.strip(" '") for part in str(item["ctx"]["expected"]).replace(" or ", ", ").split(", ")]


def _problem(item: ErrorDetails, data: Any) -> Problem:
    path, models = _locate(item["loc"], data)
    kind, context, given = item["type"], item.get("ctx", {}), item.get("input")
    if kind == "extra_forbidden":
        return Problem(path, "unknown key" + _hint(str(path[-1]), path, models, data))
    if kind == "missing":
        return Problem(path, "missing")
    if kind == "union_tag_not_found":
        known = _tags(models)
        return Problem((*path, "name"), f"missing; one of {', '.join(known)}")
    if kind == "union_tag_invalid":
        known = _tags(models)
        return Problem((*path, "name"), f"unknown name {context['tag']!r}{_near(str(context['tag']), known)}")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Problem(path, f"must be a mapping of keys to values, not {given!r}")
    if kind == "literal_error":
        return Problem(
            path, f"must be {context['expected']}, not {given!r}{_near(str(given), _expected(item), ask=False)}"
        )
    if kind == "too_short":
        return Problem(path, "must not be empty")
    if kind == "value_error":
        return Problem(path, str(context["error"]).replace("\n  hint: ", "; "))
    text = item["msg"].removeprefix("Input ").replace("should be a valid", "must be a").replace("should", "must")
    text = text.replace("a integer", "an integer")
    return Problem(path, f"{text[:1].lower()}{text[1:]}, not {given!r}")


def _locate(location: Iterable[str | int], data: Any) -> tuple[Path, list[type[BaseModel]]]:
    """The key path as written in the file, and the model classes that hold its last key.

    pydantic puts the tag of a discriminated union (`method`, `mmr`, `lmbd`) and `[key]` marks into locations; both go.
    """
    path: list[str | int] = []
    holders: list[type[BaseModel]] = [Recipe]
    inside: list[type[BaseModel]] = [Recipe]
    for part in location:
        if part == "[key]" or str(part).startswith("literal["):
            continue
        named = [model for model in inside if part in _names(model)]
        if named and isinstance(data, dict) and part not in data and len(inside) > 1:
            inside = named
            continue
        path.append(part)
        holders = inside
        inside = [child for model in inside for child in _children(model, part)] if isinstance(part, str) else inside
        data = _inside(data, part)
    if path and isinstance(path[-1], str) and not any(path[-1] in model.model_fields for model in holders):
        return tuple(path), holders
    return tuple(path), inside or holders


def _inside(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def _names(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of the class's `name: Literal[...]`, by which a union chooses it."""
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _children(model: type[BaseModel], key: str) -> Iterator[type[BaseModel]]:
    """The model classes a field's annotation mentions."""
    field = model.model_fields.get(key)
    pending = [field.annotation] if field is not None else []
    while pending:
        annotation: Any = pending.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        else:
            pending.extend(get_args(annotation))


def _tags(models: Iterable[type[BaseModel]]) -> list[str]:
    return [name for model in models for name in _names(model)]


def _near(name: str, known: list[str], ask: bool = True) -> str:
    near = nearest(name, known)
    if near:
        return f" (did you mean {near!r}?)"
    return f" (known: {', '.join(known)})" if ask and known else ""


def _hint(key: str, path: Path, models: list[type[BaseModel]], data: Any) -> str:
    """The nearest key of the same mapping, else the place where this key belongs."""
    known = sorted({field for model in models for field in model.model_fields})
    if near := nearest(key, known):
        return f" (did you mean {near!r}?)"
    elsewhere = [other for other in _paths(data) if other != path and other[-1] == key]
    if elsewhere:
        return f" (did you mean {dotted(elsewhere[0])!r}?)"
    return f" (known: {', '.join(known)})"


def _paths(data: Any, above: Path = ()) -> Iterator[Path]:
    """Every key path of nested mappings."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*above, str(key))
            yield from _paths(value, (*above, str(key)))
