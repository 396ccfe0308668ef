"""Faults planted into the code: each turns a named test red, and the same test is green without it.

A verifier that is wrong looks exactly like one that is right, until a test says otherwise. These are the mistakes that
tools of this kind have made; the tests named here are the ones that would have caught them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.attacks.verify import Confirmed, confirm
from robustcli.balls import Ball
from robustcli.bounds.dual import Relaxation, dual, parallelogram
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.branch_and_bound.domains import Domains
from robustcli.branch_and_bound.system import Phases, System
from robustcli.errors import ContradictionError
from robustcli.networks.network import Network
from robustcli.networks.rows import Rows
from tests import test_balls
from tests.attacks import test_verify
from tests.bounds import test_dual, test_interval, test_rounding, test_rounding_extremes
from tests.branch_and_bound import test_system
from tests.branch_and_bound import test_verify as test_search
from tests.evaluation import test_certify
from tests.mip import test_verify as test_mip
from tests.networks import test_rows
from tests.results import test_merge

RED = (AssertionError, pytest.fail.Exception)
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """What is planted, and the test that must notice: called with `arguments`, and a fresh folder if it takes one."""

    name: str
    plant: Plant
    test: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    red: type[BaseException] | tuple[type[BaseException], ...] = RED
    folder: bool = False

    def run(self, folder: Path) -> None:
        folder.mkdir()
        self.test(*([folder] if self.folder else []), *self.arguments)


def wrong_dual_norm(patch: pytest.MonkeyPatch) -> None:
    """The norm itself instead of its dual."""
    patch.setattr("robustcli.balls.dual", lambda p: p)


def wrong_linf_dual_norm(patch: pytest.MonkeyPatch) -> None:
    """The largest entry instead of the sum: the reach of linf balls."""

    def reaches(rows: Rows, ball: Ball) -> tuple[Tensor, Tensor]:
        low, high = ball.bounding_box()
        reached = (rows.values.abs() * rows.gather((high - low) / 2)).flatten(1).amax(1)
        return reached, reached

    patch.setattr("robustcli.bounds.dual.reaches", reaches)


def box_dropped(patch: pytest.MonkeyPatch) -> None:
    """The room of a coordinate forgets the box."""

    def room(ball: Ball) -> tuple[Tensor, Tensor]:
        eps = ball.eps.view(-1, *[1] * (ball.center.dim() - 1)).expand_as(ball.center)
        return eps, eps

    patch.setattr(Ball, "room", room)


def box_dropped_in_the_reach(patch: pytest.MonkeyPatch) -> None:
    """The plain dual norm where the box should cut the ball."""
    from robustcli.balls import reach

    def unboxed(rows: Tensor, down: Tensor, up: Tensor, eps: Tensor, p: float, boxed: bool) -> Tensor:
        return reach(rows, down, up, eps, p, False)

    patch.setattr("robustcli.bounds.interval.reach", unboxed)


def flipped(bounds: Bounds) -> Relaxation:
    """-l / (u - l) instead of u / (u - l)."""
    good = parallelogram(bounds)
    slope = torch.where(bounds.unstable, 1 - good.slope, good.slope)
    return Relaxation(slope, torch.where(bounds.unstable, -slope * bounds.lower, good.gap))


def flipped_slope(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("robustcli.bounds.dual.parallelogram", flipped)
    patch.setattr(test_dual, "parallelogram", flipped)


def full_filter_at_the_border(patch: pytest.MonkeyPatch) -> None:
    """Coefficients that hang over the padding count as if there were pixels (MMR's code: methods.md 2.5)."""
    patch.setattr(Rows, "inside", lambda rows: rows)


def padding_is_read(patch: pytest.MonkeyPatch) -> None:
    """The map goes on beyond its border, with ones."""
    pad = SimpleNamespace(pad=lambda maps, sides: F.pad(maps, sides, value=1.0), conv_transpose2d=F.conv_transpose2d)
    patch.setattr("robustcli.networks.rows.F", pad)


def contradiction_in_the_records(patch: pytest.MonkeyPatch) -> None:
    """One record proves robust what another one has a witness against."""
    answer = test_merge.answer

    def lying(run: Any, question: Any, records: Any, **more: Any) -> Path:
        if question.command == "certify":
            records = "r" + records[1:]
        return answer(run, question, records, **more)

    patch.setattr(test_merge, "answer", lying)


def contradiction_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("robustcli.results.merge._refutes", lambda witness, proof: False)


def box_ignored_in_merging(patch: pytest.MonkeyPatch) -> None:
    """Every verdict taken for every ball."""
    patch.setattr("robustcli.results.merge.carries", lambda verdict, asked, about: True)


def no_rounding_error(patch: pytest.MonkeyPatch) -> None:
    """A float margin taken for a proof: nothing is added outward."""

    def nothing(network: Network, ball: Ball) -> list[Tensor]:
        return [torch.zeros(ball.size, *block.out_shape, dtype=network.dtype) for block in network.blocks]

    for module in ("dual", "interval"):
        patch.setattr(f"robustcli.bounds.{module}.rounding_errors", nothing)


def float32_certificate(patch: pytest.MonkeyPatch) -> None:
    """Bounds computed in float32, their sign believed."""

    def rough(network: Network, ball: Ball, rows: Tensor, *, known: Sequence[Bounds] | None = None) -> MarginBounds:
        single = test_rounding.single(network).requires_grad_(False)
        found = dual(single, ball.to(torch.float32), rows.float(), outward=False)
        return replace(found, margins=found.margins.double())

    patch.setattr("robustcli.evaluation.certify.BOUNDS", {"interval": rough, "dual": rough, "crown": rough})


def judge(network: Network, ball: Ball, labels: Tensor, candidates: Tensor) -> Confirmed:
    """Membership alone."""
    found = confirm(network, ball, labels, candidates)
    return replace(found, success=ball.contains(found.points))


def stale_witness(patch: pytest.MonkeyPatch) -> None:
    """A stored or claimed witness is taken at its word: margins >= 0 pass."""
    for module in ("evaluation.attack", "mip.witness"):
        patch.setattr(f"robustcli.{module}.confirm", judge)
    patch.setattr(test_verify, "confirm", judge)


REJECTED = (
    test_mip.said("below", -1.0, torch.tensor([0.65, 0.3]).double().numpy()),
    "witness rejected by the forward pass (target 0)",
)


def half_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A split keeps the bounds of one half for both."""
    split = Domains.split

    def halved(domains: Domains, units: Tensor) -> Domains:
        both = split(domains, units)
        return replace(both, signs=both.signs[: len(domains)].repeat(2, 1))

    patch.setattr(Domains, "split", halved)


def multiplier_of_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    """beta rewards leaving the domain instead of staying in it."""

    def flipped_signs(cls: type[Phases], system: System, signs: Tensor) -> Phases:
        good = of(system, signs)
        return replace(good, signs=-good.signs)

    of = Phases.of
    patch.setattr(Phases, "of", classmethod(flipped_signs))


def idle_units_count(patch: pytest.MonkeyPatch) -> None:
    """A leaf takes the masks of units without influence for signs of the domain."""
    patch.setattr("robustcli.branch_and_bound.leaves.NEVER", 1.0)


FAULTS = [
    Fault("dual norm", wrong_dual_norm, test_dual.test_golden_margins_and_robust_loss, test_dual.GOLDEN[2]),
    Fault("dual norm", wrong_dual_norm, test_dual.test_equals_the_dense_dual, (1, 1.0, 0.4)),
    Fault("dual norm", wrong_dual_norm, test_balls.test_without_a_box_the_reach_is_the_dual_norm, (3.0,)),
    Fault("linf norm", wrong_linf_dual_norm, test_dual.test_golden_margins_and_robust_loss, test_dual.GOLDEN[0]),
    Fault("box", box_dropped, test_dual.test_golden_box),
    Fault("box", box_dropped, test_dual.test_box_never_loosens, (2.0, 0.25)),
    Fault("box", box_dropped, test_balls.test_the_box_matters_at_its_border),
    Fault(
        "box",
        box_dropped_in_the_reach,
        test_interval.test_first_layer_is_the_support_function_of_its_dense_rows,
        (test_dual.nets()[1], 1.0, (0.0, 1.0)),
    ),
    Fault("slope", flipped_slope, test_dual.test_golden_margins_and_robust_loss, test_dual.GOLDEN[0]),
    Fault("slope", flipped_slope, test_dual.test_golden_hidden_bounds),
    Fault("slope", flipped_slope, test_dual.test_parallelogram_contains_the_relu),
    Fault("padding", full_filter_at_the_border, test_rows.test_padding_is_not_read),
    Fault("padding", full_filter_at_the_border, test_dual.test_equals_the_dense_dual, (2, 2.0, 0.25)),
    Fault("padding", full_filter_at_the_border, test_dual.test_equals_the_dense_dual, (4, math.inf, 0.05)),
    Fault("padding", padding_is_read, test_rows.test_windows_equal_the_adjoint, test_rows.TOWERS[0]),
    Fault("padding", padding_is_read, test_dual.test_equals_the_dense_dual, (2, math.inf, 0.05)),
    Fault(
        "contradiction",
        contradiction_in_the_records,
        test_merge.test_commands_add_up,
        red=ContradictionError,
        folder=True,
    ),
    Fault(
        "contradiction",
        contradiction_ignored,
        test_merge.test_contradictions_across_commands,
        (True, True),
        folder=True,
    ),
    Fault(
        "merging",
        box_ignored_in_merging,
        test_merge.test_boxed_certificates_and_unboxed_witnesses_serve_their_own_ball,
        red=(*RED, ContradictionError),
        folder=True,
    ),
    Fault(
        "split",
        half_forgotten,
        test_search.test_verdicts_are_those_of_brute_force,
        (math.inf, None, 3.0),
    ),
    Fault(
        "split",
        multiplier_of_the_wrong_sign,
        test_system.test_golden_multipliers,
        ([(1, 0, 1)], 0.0375, 0.108190),
    ),
    Fault("split", idle_units_count, test_search.test_leaves_hold_points_on_both_sides_of_idle_units),
    Fault("float32", no_rounding_error, test_rounding.test_float32_bounds_with_their_margin_stay_below_float64_bounds),
    Fault(
        "float32",
        no_rounding_error,
        test_rounding_extremes.test_widened_float32_bounds_hold,
        ("deep", math.inf, 0.05, None),
    ),
    Fault("float32", float32_certificate, test_certify.test_a_float32_margin_is_no_proof),
    Fault("witness", stale_witness, test_verify.test_a_stale_witness_is_not_accepted, folder=True),
    Fault("witness", stale_witness, test_verify.test_a_point_that_is_classified_correctly_is_no_witness),
    Fault("witness", stale_witness, test_mip.test_what_is_not_proved_is_never_a_verdict, REJECTED),
]


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{fault.name}: {fault.plant.__name__}, {fault.test.__name__}"
)
def test_the_named_test_turns_red(fault: Fault, tmp_path: Path) -> None:
    fault.run(tmp_path / "before")
    with pytest.MonkeyPatch.context() as patch:
        fault.plant(patch)
        with pytest.raises(fault.red):
            fault.run(tmp_path / "planted")
    fault.run(tmp_path / "after")


def test_every_kind_of_fault_is_planted() -> None:
    """The kinds that must be shown."""
    assert {"dual norm", "box", "slope", "padding", "split", "contradiction", "float32", "witness"} <= {
        f.name for f in FAULTS
    }
