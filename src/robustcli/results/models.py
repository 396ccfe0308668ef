"""The networks evaluated in a set of runs, with all answers about each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from robustcli.errors import CheckpointError, RecipeError, UnknownNameError
from robustcli.networks.metadata import read_metadata
from robustcli.recipes import loading
from robustcli.recipes.model import Recipe
from robustcli.results import merge
from robustcli.results.merge import Answers
from robustcli.results.runs import RunFolder
from robustcli.results.schema import Provenance


@dataclass(frozen=True)
class Model:
    """The answers of one network on one split within a run folder.

    Args:
        replaced: the run holds other weights by now.
    """

    run: RunFolder
    recipe: Recipe | None
    answers: list[Answers]
    replaced: bool = False

    @cached_property
    def provenance(self) -> Provenance | None:
        """Of the first result document; None when every command was killed before writing one."""
        documents = (document for answer in self.answers for document in answer.documents)
        return next((document.provenance for document in documents), None)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields that say which model a row is about."""
        known = self.provenance
        dataset = known.dataset if known else self.recipe.dataset if self.recipe else "unknown data"
        recipe = self.recipe.name if self.recipe else known.recipe if known else None
        seed = self.run.seed if self.run.seed is not None else known.seed if known else None
        model = self.answers[0].question.model
        return {"name": self.run.name, "recipe": recipe, "seed": seed, "model": model, "dataset": dataset}

    @cached_property
    def overrides(self) -> list[str]:
        """The `--set` overrides the network was trained with."""
        return self.run.overrides() or (self.provenance.overrides if self.provenance else [])

    @cached_property
    def partial(self) -> str | None:
        """Which rows of the official split are missing, if any."""
        found = (document.provenance.partial for answer in self.answers for document in answer.documents)
        return next(filter(None, found), None)

    @cached_property
    def classified(self) -> dict[int, bool]:
        """Index -> misclassified, for every point that any command has seen."""
        wrong = merge.errors(self.answers)
        return {index: index in wrong for answer in self.answers for index in answer.lines}


def models(runs: Iterable[RunFolder]) -> list[Model]:
    """The networks evaluated in these runs; a run retrained in place gives one model for each set of weights.

    Raises:
        ContradictionError: when any two records cannot both be true.
    """
    found = []
    for run in runs:
        networks: dict[tuple[str, str], list[Answers]] = defaultdict(list)
        for answer in merge.gather(run):
            networks[answer.question.model, answer.question.data].append(answer)
        current = _current(run) if len(networks) > 1 else None
        for (weights, _), answers in networks.items():
            replaced = current is not None and weights != current
            found.append(Model(run, run.recipe() or _shipped(answers), answers, replaced))
    merge.check(answer for model in found for answer in model.answers)
    return found


def _current(run: RunFolder) -> str | None:
    """The hash of the run's present weights."""
    try:
        return read_metadata(run.weights).weights_sha256
    except CheckpointError:
        return None


def _shipped(answers: list[Answers]) -> Recipe | None:
    """The shipped recipe that trained the network of results kept outside a run folder."""
    for provenance in (document.provenance for answer in answers for document in answer.documents):
        if provenance.recipe is None or provenance.recipe_hash is None:
            continue
        try:
            recipe = loading.load(provenance.recipe)
        except (UnknownNameError, RecipeError):
            continue
        if recipe.hash == provenance.recipe_hash:
            return recipe
    return None
