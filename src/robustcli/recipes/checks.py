"""Whether the parts of a recipe agree with each other and with its data set. (Types and ranges: model.py.)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from robustcli.data.specs import OWN_PREFIX, SPECS, Spec, spec
from robustcli.errors import UnknownNameError, UsageError
from robustcli.networks.architectures import architecture, description
from robustcli.norms import NORMS, check_eps, exponent, radius
from robustcli.recipes.methods import (
    Adversarial,
    Colt,
    ConvexPolytope,
    CrownIntervals,
    Intervals,
    Plain,
    ReluStability,
    Tightening,
)
from robustcli.recipes.model import Recipe
from robustcli.recipes.problems import Path, Problem


def disagreements(recipe: Recipe) -> list[Problem]:
    """All contradictions of a well-formed recipe; empty when it holds together."""
    problems = list(_radii(recipe))
    if isinstance(recipe.method, ConvexPolytope | CrownIntervals):
        problems += _tightness(recipe, recipe.method.tightness)
    if isinstance(recipe.method, ConvexPolytope):
        problems += _ramp(recipe, recipe.method)
    if isinstance(recipe.method, Intervals | ReluStability):
        problems += _growth(recipe, recipe.method)
    if isinstance(recipe.method, Colt):
        problems += _stages(recipe, recipe.method)
    problems += _normalised(recipe)
    problems += names_and_radii(recipe.model_dump())
    known = spec(recipe.dataset) if recipe.dataset in SPECS else None
    # The user's own arrays (npz:PATH) say shape and box themselves; they are read when training starts.
    return [*problems, *_data(recipe, known)] if known is not None else problems


def names_and_radii(data: dict[str, Any]) -> Iterator[Problem]:
    """Unknown data set or architecture, and radii larger than the input box. Also for data that is no valid recipe."""
    known = None
    if isinstance(name := data.get("dataset"), str) and not name.startswith(OWN_PREFIX):
        try:
            known = spec(name)
        except UnknownNameError as error:
            yield Problem(("dataset",), _flat(error))
    if isinstance(name := data.get("architecture"), str):
        try:
            architecture(name)
        except UsageError as error:
            yield Problem(("architecture",), _flat(error))
    radii = data.get("eps")
    if known is None or not isinstance(radii, dict):
        return
    for norm, eps in radii.items():
        if norm not in NORMS or not _positive(eps):
            continue  # said by the model
        try:
            check_eps(eps, exponent(norm), known.dimension, known.box)
        except UsageError as error:
            yield Problem(("eps", norm), _flat(error))


def _positive(eps: object) -> bool:
    try:
        return isinstance(eps, str | float | int) and radius(eps) > 0
    except UsageError:
        return False


def _radii(recipe: Recipe) -> Iterator[Problem]:
    """Every norm that is trained or evaluated needs a radius."""
    given = ", ".join(recipe.eps)
    if recipe.norm == "union" and len(recipe.eps) < 2:
        yield Problem(("norm",), f"union of norms, but eps has {given} only (norms: {', '.join(NORMS)})")
    elif recipe.norm != "union" and recipe.norm not in recipe.eps:
        yield Problem(("norm",), f"{recipe.norm} has no radius: eps has {given}")
    for path, norm in _norms(recipe.method, ("method",)):
        if norm not in recipe.eps:
            yield Problem(path, f"{norm} has no radius: eps has {given}")


def _norms(settings: BaseModel, above: Path) -> Iterator[tuple[Path, str]]:
    """The norms a method trains for."""
    for key, value in settings:
        if key in ("norm", "norms"):
            for norm in [value] if isinstance(value, str) else value:
                yield (*above, key), norm
        elif isinstance(value, BaseModel):
            yield from _norms(value, (*above, key))


def _ramp(recipe: Recipe, method: ConvexPolytope) -> Iterator[Problem]:
    """A growing eps starts below its end and arrives before training ends."""
    final = recipe.eps.get(method.norm)
    if (method.start_eps is None) != (method.ramp_epochs == 0):
        yield Problem(("method", "start_eps"), "start_eps and ramp_epochs go together: give both or neither")
    if method.start_eps is not None and final is not None and method.start_eps > final:
        yield Problem(("method", "start_eps"), f"{method.start_eps:g} is above eps.{method.norm} = {final:g}")
    if method.ramp_epochs > recipe.training.epochs:
        epochs = recipe.training.epochs
        yield Problem(("method", "ramp_epochs"), f"{method.ramp_epochs} exceeds training.epochs = {epochs}")
    if method.projections is not None and (method.norm == "l1" or (method.norm == "l2" and method.boxed)):
        yield Problem(("method", "projections"), "there are none for l1 balls, and none for l2 balls cut with the box")


def _normalised(recipe: Recipe) -> Iterator[Problem]:
    """Methods that take a layer's rows beside its values need batch normalisation that does not move with the batch."""
    method = recipe.method
    if not recipe.training.batch_norm or isinstance(method, Plain | Adversarial | Intervals | ReluStability):
        return
    reason = f"{method.name} does not know it; plain, at, relu-stability and the methods from ibp to sabr do"
    if isinstance(method, Colt):
        reason = "stages freeze layers, which statistics of later batches would move"
    yield Problem(("training", "batch_norm"), reason)


def _tightness(recipe: Recipe, weights: Tightening | None) -> Iterator[Problem]:
    """The weights of 004's regularisers arrive before training ends."""
    if weights is not None and weights.warmup_epochs > (epochs := recipe.training.epochs):
        path = ("method", "tightness", "warmup_epochs")
        yield Problem(path, f"{weights.warmup_epochs} exceeds training.epochs = {epochs}")


def _growth(recipe: Recipe, method: Intervals | ReluStability) -> Iterator[Problem]:
    """A growing radius arrives before training ends."""
    last = method.ramp.start + method.ramp.epochs
    if last > (epochs := recipe.training.epochs):
        yield Problem(("method", "ramp"), f"ends after epoch {last}, beyond training.epochs = {epochs}")


def _stages(recipe: Recipe, method: Colt) -> Iterator[Problem]:
    """Stages of equal length, each with a ReLU to attack behind and an affine map to train; mixing fits in."""
    epochs = recipe.training.epochs
    if recipe.training.averaging is not None:
        yield Problem(("training", "averaging"), "stages freeze layers, which the average would go on moving")
    if epochs % method.stages:
        yield Problem(("training", "epochs"), f"{epochs} cannot be shared equally by {method.stages} stages")
    elif method.mix_epochs > epochs // method.stages:
        yield Problem(("method", "mix_epochs"), f"{method.mix_epochs} exceeds the {epochs // method.stages} of a stage")
    try:
        layers = len(architecture(recipe.architecture).plan)
    except UsageError:
        return  # said by `names_and_radii`
    if method.stages > layers:
        yield Problem(("method", "stages"), f"{method.stages} for {layers} hidden layers of {recipe.architecture}")


def _data(recipe: Recipe, data: Spec) -> Iterator[Problem]:
    """What the data set must have for this recipe: a fitting shape, a box, mean and deviation, images."""
    try:
        description(recipe.architecture, data.input_shape, data.classes)
    except UsageError as error:
        if not isinstance(error, UnknownNameError):  # that is said already
            yield Problem(("architecture",), _flat(error))
    if isinstance(recipe.method, ConvexPolytope) and recipe.method.boxed and data.box is None:
        yield Problem(("method", "boxed"), f"{data.name} has no input box")
    if recipe.normalise == "dataset" and data.mean is None:
        yield Problem(("normalise",), f"{data.name} has no mean and deviation; use none")
    changes, padding = recipe.training.augmentation, recipe.training.padding
    if changes != "none" and len(data.input_shape) != 3:
        yield Problem(("training", "augmentation"), f"{data.name} holds no images; use none")
    elif changes.startswith("crop") and padding >= (side := min(data.input_shape[1:])):
        yield Problem(("training", "padding"), f"{padding} leaves crops without image (side {side})")


def _flat(error: UsageError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")
