"""The papers' figures as rows of our table, and in what their conditions differ from ours."""

from __future__ import annotations

import math
import re

from robustcli.data import specs
from robustcli.errors import RobustError
from robustcli.recipes.model import Distances, Published, Recipe
from robustcli.results.rows import Row, radii

# Papers print 2/255 as 0.0078.
EPS_TOLERANCE = 6e-3


def rows(recipe: Recipe, ours: Row) -> list[Row]:
    """One row for every published block of the recipe, its notes saying what differs from `ours`."""
    return [
        Row(
            kind="published",
            name=f"paper {block.paper} {place(block.table)}",
            recipe=recipe.name,
            dataset=ours.dataset,
            eps=radii(block),
            boxed=block.boxed,
            points=_count(block, ours.dataset),
            range=block.points,
            test_error=_share(block.test_error),
            test_error_range="full test set",
            lower={norm: value / 100 for norm, value in block.lower.items() if value is not None},
            upper={norm: value / 100 for norm, value in block.upper.items() if value is not None},
            notes=[*distance_words(block.distances), *differences(block, ours), *block.notes],
        )
        for block in recipe.published
    ]


def differences(block: Published, ours: Row) -> list[str]:
    """Every condition in which a published row was measured otherwise than ours, theirs first."""
    found = []
    theirs = _points(block.points, ours.dataset)
    if theirs is None or f"0:{theirs}" != ours.range:
        found.append(f"points: {block.points} (ours: {ours.range})")
    if block.boxed != ours.boxed:
        found.append(f"certified ball: {box_text(block.boxed)} (ours: {box_text(ours.boxed)})")
    for norm, eps in block.eps.items():
        mine = ours.eps.get(norm)
        if mine is not None and not math.isclose(mine, eps, rel_tol=EPS_TOLERANCE):
            found.append(f"{norm} eps: {eps_text(eps)} (ours: {eps_text(mine)})")
    return found


def place(table: str) -> str:
    """Where in a paper: `Table 1`, `Tables 2-5`, `appendix C`."""
    if not table[:1].isdigit():
        return table
    return f"Table {table}" if table.isdecimal() else f"Tables {table}"


def distance_words(found: Distances | None) -> list[str]:
    """The average distances of a published row, as notes; none for a row without them."""
    if found is None:
        return []
    ends = _listed({"lower": found.lower, "upper": found.upper})
    regions = _listed({"Theorem 3.1": found.region, "neighbouring regions too": found.neighbours})
    notes = [f"average {found.norm} distance: {ends}"] if ends else []
    if regions:
        notes.append(f"lower bounds from regions: {regions}")
    if found.exact is not None:
        beyond = f", {found.exact_over_lower:g} % above KW's bound" if found.exact_over_lower is not None else ""
        notes.append(f"distance exact for {found.exact:g} % of the test set{beyond}")
    return notes


def _listed(values: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)


def box_text(boxed: bool | None) -> str:
    """Words for the kind of ball."""
    return {True: "cut with the input box", False: "not cut with the input box", None: "partly cut"}[boxed]


def eps_text(eps: float) -> str:
    """A radius as people write it: `0.1`, `2/255`, else six digits."""
    short = f"{eps:.4g}"
    if float(short) == eps:
        return short
    pixels = eps * 255
    return f"{round(pixels)}/255" if math.isclose(pixels, round(pixels), rel_tol=1e-9) else f"{eps:.6g}"


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _count(block: Published, dataset: str) -> int | None:
    return _points(block.points, dataset)


def _points(text: str, dataset: str) -> int | None:
    """How many of the first test points `first 1000` or `full test set` means; None for other words."""
    first = re.fullmatch(r"first ([\d ,_]+)", text.strip())
    if first:
        return int(re.sub(r"\D", "", first[1]))
    if text.strip().startswith("full"):
        try:
            return specs.spec(dataset).rows["test"]
        except (RobustError, KeyError):
            return None
    return None
