"""Regularisers that make relaxations tight (004, equation 3): the indicators d and r as terms of a loss of bounds.

    loss = CE(-p*, y) + lambda sum_t d_t + gamma sum_t r_t,     t != y, mean over the batch

lambda and gamma grow linearly over the warm-up, as the radius of 004's runs does. 004 leaves open what carries
gradients: here the relaxation's worst input and the choice of lines are constants, and nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustcli.bounds.indicators import tightness
from robustcli.bounds.relaxation import Rule
from robustcli.recipes.methods import Ramp
from robustcli.recipes.methods import Tightening as Settings
from robustcli.training.objective import Moment
from robustcli.training.ramps import share
from robustcli.training.terms import Pass, Term


@dataclass(frozen=True)
class Tightening:
    """lambda sum_t d_t + gamma sum_t r_t.

    Args:
        settings: lambda, gamma and their warm-up.
        rule: slopes of the relaxation's lower lines.
    """

    settings: Settings
    rule: Rule

    def __call__(self, seen: Pass, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        found = tightness(seen.network, seen.ball, seen.rows, seen.found, self.rule)
        gap, distance = found.gap.sum(1).mean(), found.distance.sum(1).mean()
        warm = share(Ramp(epochs=self.settings.warmup_epochs), moment)
        total = warm * (self.settings.gap * gap + self.settings.distance * distance)
        return total, {"d": gap, "r": distance}


def terms(settings: Settings | None, rule: Rule) -> tuple[Term, ...]:
    """The term of a recipe's settings; none where there are none."""
    return () if settings is None else (Tightening(settings, rule),)
