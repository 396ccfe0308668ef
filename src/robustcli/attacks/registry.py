"""Every attack by name. To add one: a line here.

A line holds the function, its settings, the most passes it can spend on a point, the norms it knows, and its goal: any
misclassified point of the ball (`radius`), or the nearest one (`nearest`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from robustcli.attacks.apgd import apgd
from robustcli.attacks.apgd_targeted import apgd_targeted
from robustcli.attacks.apgd_wide import apgd_wide
from robustcli.attacks.carlini_wagner import carlini_wagner
from robustcli.attacks.closest import PULL_PASSES
from robustcli.attacks.contract import Found, Task
from robustcli.attacks.ddn import ddn
from robustcli.attacks.descent import descent
from robustcli.attacks.ead import ead
from robustcli.attacks.fab import fab
from robustcli.attacks.fgsm import fgsm
from robustcli.attacks.fmn import fmn
from robustcli.attacks.improving import BACK_PASSES, OWN_PASSES
from robustcli.attacks.latent import latent
from robustcli.attacks.linear_region import linear_region
from robustcli.attacks.losses import cross_entropy, dlr, margin, targeted_dlr
from robustcli.attacks.nearest import SEGMENT_STEPS, nearest
from robustcli.attacks.pdpgd import pdpgd
from robustcli.attacks.pgd import pgd
from robustcli.attacks.polished import polished
from robustcli.attacks.relaxation import RULES, relaxation
from robustcli.attacks.search import LOOK
from robustcli.attacks.settings import (
    ApgdSettings,
    FgsmSettings,
    NearestSettings,
    PlainSettings,
    TargetedSettings,
    WideSettings,
)
from robustcli.attacks.settings_nearest import (
    CarliniWagnerSettings,
    DdnSettings,
    EadSettings,
    FabSettings,
    FmnSettings,
    PdpgdSettings,
)
from robustcli.attacks.settings_regions import (
    DescentSettings,
    LatentSettings,
    LinearRegionSettings,
    PolishSettings,
    RelaxationSettings,
    StartSettings,
)
from robustcli.attacks.wide import large_eps, phases
from robustcli.errors import UnknownNameError
from robustcli.recipes.fields import Strict

ALL = (1.0, 2.0, math.inf)

Cost = Callable[[Any, int, float], int]
"""(settings, number of classes, p) -> the most passes the attack spends on a point."""


@dataclass(frozen=True)
class Row:
    """One attack.

    Args:
        attack: `attack(task, settings) -> Found`.
        settings: class of its settings; all have defaults.
        passes: the most it spends on a point; on linear pieces, whose rows are counted as they are needed, a guess.
        words: what it is, for people.
        norms: exponents of the balls it knows.
        goal: what it looks for.
    """

    attack: Callable[[Task, Any], Found]
    settings: type[Strict]
    passes: Cost
    words: str
    norms: tuple[float, ...] = ALL
    goal: Literal["radius", "nearest"] = "radius"


def run_passes(steps: int, p: float) -> int:
    """Of one run of APGD: a look per step, and one more at the start of every radius."""
    return LOOK * (steps + (len(large_eps(steps)) if p == 1 else 1))


def _plain(settings: PlainSettings, classes: int, p: float) -> int:
    return LOOK * settings.restarts * (settings.steps + 1)


def _apgd(settings: ApgdSettings, classes: int, p: float) -> int:
    return settings.restarts * run_passes(settings.steps, p)


def _targeted(settings: TargetedSettings, classes: int, p: float) -> int:
    return settings.restarts * min(settings.targets, classes - 1) * run_passes(settings.steps, p)


def _wide(settings: WideSettings, classes: int, p: float) -> int:
    runs = settings.restarts + min(settings.targets, classes - 1)
    return LOOK * runs * (settings.steps + len(phases(settings)))


def _relaxation(settings: RelaxationSettings, classes: int, p: float) -> int:
    return len(RULES) * min(settings.targets, classes - 1) * LOOK * (settings.steps + 1)


def _latent(settings: LatentSettings, classes: int, p: float) -> int:
    return settings.depth * LOOK * (settings.latent_steps + settings.steps + 1)


def _descent(settings: DescentSettings, classes: int, p: float) -> int:
    return LOOK * (settings.steps + 1) + settings.pieces * 2 * classes


def _first(settings: StartSettings) -> int:
    return OWN_PASSES + settings.rounds * (LOOK * (settings.steps + 1) + BACK_PASSES)


def _polished(settings: PolishSettings, classes: int, p: float) -> int:
    return _first(settings.start) + settings.pieces * classes


def _regions(settings: LinearRegionSettings, classes: int, p: float) -> int:
    return _first(settings.start) + settings.regions * 2 * classes


def _fab(settings: FabSettings, classes: int, p: float) -> int:
    targets = min(settings.targets, classes - 1)
    runs = (settings.restarts + targets) * PULL_PASSES + max(0, settings.restarts - 1) * (classes + 1)
    return runs + settings.restarts * settings.steps * (classes + 1) + targets * (settings.steps * 3 + 1)


def _searches(settings: CarliniWagnerSettings | EadSettings, classes: int, p: float) -> int:
    return settings.searches * settings.steps * (3 if isinstance(settings, EadSettings) else 2) + PULL_PASSES


def _restarts(settings: DdnSettings | FmnSettings | PdpgdSettings, classes: int, p: float) -> int:
    return settings.restarts * (settings.steps * 2 + PULL_PASSES)


def _nearest(settings: NearestSettings, classes: int, p: float) -> int:
    steps = settings.steps + len(phases(WideSettings(steps=settings.steps)))
    return LOOK + settings.rounds * (LOOK * steps + SEGMENT_STEPS + 4) + PULL_PASSES


ROWS: dict[str, Row] = {
    "fgsm": Row(fgsm, FgsmSettings, lambda *_: LOOK, "one step to the end of the ball (Goodfellow et al. 2015)"),
    "pgd": Row(pgd, PlainSettings, _plain, "steps of one length, cross-entropy: the papers' PGD"),
    "apgd-ce": Row(partial(apgd, loss=cross_entropy), ApgdSettings, _apgd, "APGD on the cross-entropy"),
    "apgd-dlr": Row(partial(apgd, loss=dlr), ApgdSettings, _apgd, "APGD on the difference of logits ratio"),
    "apgd-margin": Row(partial(apgd, loss=margin), ApgdSettings, _apgd, "APGD on f_y - max f_t"),
    "apgd-t": Row(partial(apgd_targeted, loss=margin), TargetedSettings, _targeted, "APGD on f_y - f_t, t by t"),
    "apgd-t-dlr": Row(partial(apgd_targeted, loss=targeted_dlr), TargetedSettings, _targeted, "APGD on targeted DLR"),
    "apgd-wide": Row(apgd_wide, WideSettings, _wide, "APGD from far outside the ball inwards"),
    "relaxation": Row(relaxation, RelaxationSettings, _relaxation, "APGD from the minimisers of the margins' bounds"),
    "latent": Row(latent, LatentSettings, _latent, "APGD from latent adversarial points of 002", norms=(math.inf,)),
    "descent": Row(descent, DescentSettings, _descent, "lowest margins of linear pieces, exactly"),
    "nearest": Row(nearest, NearestSettings, _nearest, "APGD at doubled and bisected radii", goal="nearest"),
    "polished": Row(polished, PolishSettings, _polished, "nearest points of linear pieces, exactly", goal="nearest"),
    "linear-region": Row(linear_region, LinearRegionSettings, _regions, "Linear Region Attack", goal="nearest"),
    "fab": Row(fab, FabSettings, _fab, "projections onto decision hyperplanes", goal="nearest"),
    "carlini-wagner": Row(carlini_wagner, CarliniWagnerSettings, _searches, "Carlini & Wagner", (2.0,), "nearest"),
    "ddn": Row(ddn, DdnSettings, _restarts, "decoupled direction and norm", (2.0,), "nearest"),
    "fmn": Row(fmn, FmnSettings, _restarts, "fast minimum norm", goal="nearest"),
    "pdpgd": Row(pdpgd, PdpgdSettings, _restarts, "primal-dual proximal gradient descent", goal="nearest"),
    "ead": Row(ead, EadSettings, _searches, "elastic net", (1.0, 2.0), "nearest"),
}


def row(name: str) -> Row:
    """One attack by name.

    Raises:
        UnknownNameError: when there is none.
    """
    if name not in ROWS:
        raise UnknownNameError("attack", name, ROWS)
    return ROWS[name]


SHRINK = ("restarts", "targets", "steps")
"""What a small budget takes away from, in this order."""

FEWEST = {"restarts": 1, "targets": 1, "steps": 10}


def fitted(row: Row, settings: Strict, passes: int, classes: int, p: float) -> Strict | None:
    """The settings with as many restarts, targets and steps as a number of passes allows; None where none are left."""
    for field in SHRINK:
        if row.passes(settings, classes, p) <= passes:
            return settings
        if field not in type(settings).model_fields:
            continue
        most = getattr(settings, field)
        low, high = min(FEWEST[field], most), most
        while low < high:  # the largest value that fits, or the smallest there is
            middle = (low + high + 1) // 2
            fits = row.passes(settings.model_copy(update={field: middle}), classes, p) <= passes
            low, high = (middle, high) if fits else (low, middle - 1)
        settings = settings.model_copy(update={field: low})
    return settings if row.passes(settings, classes, p) <= passes else None
