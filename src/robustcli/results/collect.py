"""From run folders to the content of a report: which models, which rows, the papers' rows beside them."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from robustcli.errors import DataError, UnknownNameError
from robustcli.recipes.model import Recipe
from robustcli.results import models as evaluated
from robustcli.results import perturbations, published, rows, seeds
from robustcli.results.containment import ContainmentRow, containment_rows
from robustcli.results.models import Model
from robustcli.results.perturbations import DistanceRow
from robustcli.results.rows import Row
from robustcli.results.runs import RunFolder, all_runs, runs_in
from robustcli.results.schema import Record
from robustcli.results.scores import UNION
from robustcli.results.tables import Block

REPORT_SCHEMA = "robustcli.report/1"


class Report(Record):
    """All rows with everything known about them: the JSON format of `robust report`."""

    schema_: Literal["robustcli.report/1"] = Field(default="robustcli.report/1", alias="schema")
    rows: list[Row]
    distances: list[DistanceRow]
    containment: list[ContainmentRow] = Field(default=[], description="with --containment only")
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


@dataclasses.dataclass(frozen=True)
class Content:
    """What a report prints: rows in blocks, distance rows, containment, and the runs in which nothing was measured."""

    blocks: list[Block]
    distances: list[DistanceRow]
    empty: list[RunFolder]
    containment: list[ContainmentRow] = dataclasses.field(default_factory=list)

    @property
    def report(self) -> Report:
        """The same as one document."""
        found = [row for block in self.blocks for row in (*block.rows, *block.published)]
        return Report(rows=found, distances=self.distances, containment=self.containment)


def find_runs(names: Sequence[str], root: Path, recipe: str | None = None) -> list[RunFolder]:
    """The runs meant by paths or by names below `root`; without names, all below `root`.

    Args:
        names: run folders, folders that hold runs, or names of runs below `root` (all their seeds).
        recipe: keep the runs of this recipe only, with or without overrides.

    Raises:
        UnknownNameError: for a name that is neither.
        DataError: when there is no run at all.
    """
    below = all_runs(root)
    chosen: list[RunFolder] = [] if names else below
    for name in names:
        path = Path(name)
        found = [run for run in below if run.name == name]
        if path.is_dir():
            found = runs_in(path)
        if not found:
            raise UnknownNameError("run", name, {run.name for run in below}, f"runs are looked for in {root}")
        chosen += found
    if recipe is not None:
        known = {run.name.partition("+")[0] for run in chosen}
        if known and recipe not in known:
            raise UnknownNameError("recipe among the runs", recipe, known)
        chosen = [run for run in chosen if run.name.partition("+")[0] == recipe]
    if not chosen:
        raise DataError(
            f"no runs in {root}", "`robust train --recipe NAME` makes one; or name another folder with --runs"
        )
    return list(dict.fromkeys(chosen))


def collect(
    runs: Sequence[RunFolder], dataset: str | None = None, norms: Sequence[str] = (), containment: bool = False
) -> Content:
    """Read all answers of the runs, check them against each other, and arrange them.

    Args:
        dataset: keep the rows of this data set only.
        norms: keep these norms only; all without.
        containment: read the stored witnesses too, for what the balls of two norms share.

    Raises:
        ContradictionError: naming two records that cannot both be true (whether shown or not).
        DataError: when nothing is left to show.
    """
    every = evaluated.models(runs)
    models = [model for model in every if dataset is None or model.identity["dataset"] == dataset]
    if norms:
        models = [_restrict(model, norms) for model in models]
        models = [model for model in models if model.answers]
    ours = [(model, row) for model in models for row in rows.rows(model)]
    distances = [row for model in models for row in perturbations.distance_rows(model)]
    if not ours and not distances:
        raise DataError(_nothing(runs, every, dataset, norms), _what_to_do(bool(every)))
    measured = {model.run for model in every}
    shared = [row for model in models for row in containment_rows(model)] if containment else []
    return Content(_blocks(ours, norms), distances, [run for run in runs if run not in measured], shared)


def _restrict(model: Model, norms: Sequence[str]) -> Model:
    return dataclasses.replace(model, answers=[item for item in model.answers if item.question.norm in norms])


def _blocks(ours: Sequence[tuple[Model, Row]], norms: Sequence[str]) -> list[Block]:
    """Rows of one name, data set and kind of ball with compatible radii, in order of appearance."""
    groups: dict[str, list[tuple[Model, Row]]] = defaultdict(list)
    for model, row in ours:
        groups[repr((row.name, row.dataset, row.boxed, _radii(row, model.recipe)))].append((model, row))
    blocks: list[Block] = []
    for group in groups.values():
        own = [row for _, row in group]
        recipe = group[0][0].recipe
        theirs = published.rows(recipe, own[0]) if recipe else []
        if norms:
            theirs = [_only(row, norms) for row in theirs if set(norms) & set(row.eps)]
        first = not any(block.rows[0].name == own[0].name for block in blocks)
        theirs = [row for row in theirs if first or _same_radius(row, own)]
        blocks.append(Block([*own, *seeds.over_seeds(own)], theirs))
    return blocks


def _radii(row: Row, recipe: Recipe | None) -> object:
    """Rows at the recipe's radii stand together; any other combination stands alone."""
    usual = rows.radii(recipe) if recipe else {}
    return "recipe" if all(usual.get(norm) == eps for norm, eps in row.eps.items()) else sorted(row.eps.items())


def _same_radius(theirs: Row, own: Sequence[Row]) -> bool:
    return any(
        math.isclose(row.eps[norm], eps, rel_tol=published.EPS_TOLERANCE)
        for row in own
        for norm, eps in theirs.eps.items()
        if norm in row.eps
    )


def _only(row: Row, norms: Sequence[str]) -> Row:
    """A published row without the figures of other norms."""
    return row.model_copy(
        update={
            "eps": {norm: eps for norm, eps in row.eps.items() if norm in norms},
            "lower": {norm: value for norm, value in row.lower.items() if norm in norms and norm != UNION},
            "upper": {norm: value for norm, value in row.upper.items() if norm in norms and norm != UNION},
        }
    )


def _nothing(runs: Sequence[RunFolder], every: Sequence[Model], dataset: str | None, norms: Sequence[str]) -> str:
    if not every:
        return f"no results in {len(runs)} run{'s' * (len(runs) > 1)}: {', '.join(run.name for run in runs[:5])}"
    wanted = ", ".join([*([f"data set {dataset}"] if dataset else []), *norms])
    known = sorted({f"{model.identity['dataset']} {a.question.norm}" for model in every for a in model.answers})
    return f"no results for {wanted or 'these runs'} (there are: {', '.join(known)})"


def _what_to_do(some: bool) -> str:
    if some:
        return "change --dataset or --norm, or ask with `robust attack`, `certify`, `mip-verify` or `bound-distance`"
    return "ask first: `robust attack`, `robust certify`, `robust mip-verify` or `robust bound-distance`"
