"""The shipped recipes: where they are, what they are called, how they are summed up and chosen."""

from __future__ import annotations

from pathlib import Path

from robustcli.data import specs
from robustcli.errors import UnknownNameError
from robustcli.norms import NORMS
from robustcli.recipes.methods import ConvexPolytope, CrownIntervals, MaximumMargin
from robustcli.recipes.model import Recipe


def recipes_dir() -> Path:
    """The folder of the shipped YAML files: inside the package when installed, top-level `recipes/` in a checkout."""
    package = Path(__file__).resolve().parent
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parents[2] / "recipes"


def names() -> list[str]:
    """The names of all shipped recipes, sorted."""
    return sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        UnknownNameError: with the nearest name.
    """
    if name not in (known := names()):
        raise UnknownNameError("recipe", name, known, "`robust recipes list` shows all; a file is given by its path")
    return recipes_dir() / f"{name}.yaml"


def method_label(recipe: Recipe) -> str:
    """The method as tables print it: its name, and what it leaves out or adds: `mmr-dd`, `mmr+at`, `kw+dr`."""
    method = recipe.method
    if isinstance(method, MaximumMargin):
        return method.name + ("" if method.boundary else "-dd") + ("" if method.adversarial is None else "+at")
    if isinstance(method, ConvexPolytope | CrownIntervals) and method.tightness is not None:
        return f"{method.name}+{'d' * (method.tightness.gap > 0)}{'r' * (method.tightness.distance > 0)}"
    return method.name


def choose(
    recipes: list[Recipe], *, dataset: str | None = None, method: str | None = None, norm: str | None = None
) -> list[Recipe]:
    """The recipes with the given data set, method (as `method_label`) and default norm; None takes all.

    Raises:
        UnknownNameError: for a value that cannot occur, with the nearest one that does.
    """
    everywhere = recipes
    for kind, wanted, value, known in (
        ("data set", dataset, lambda recipe: recipe.dataset, specs.names()),
        ("method", method, method_label, []),
        ("norm", norm, lambda recipe: recipe.norm, [*NORMS, "union"]),
    ):
        if wanted is None:
            continue
        values = {*known, *map(value, everywhere)}
        if wanted not in values:
            raise UnknownNameError(kind, wanted, values)
        recipes = [recipe for recipe in recipes if value(recipe) == wanted]
    return recipes
