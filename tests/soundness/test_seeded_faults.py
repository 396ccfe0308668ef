"""Faults planted into the code: each turns a named test red, and the same test is green without it.

A verifier that is wrong looks exactly like one that is right, until a test says otherwise. These are the mistakes that
tools of this kind have made; the tests named here are the ones that would have caught them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcli.errors import ContradictionError
from tests import test_balls
from tests.attacks import test_verify
from tests.bounds import test_dual, test_interval, test_rounding, test_rounding_extremes
from tests.bounds.cases import nets
from tests.branch_and_bound import test_refinement, test_system
from tests.branch_and_bound import test_verify as test_search
from tests.evaluation import test_certify
from tests.mip import test_verify as test_mip
from tests.networks import test_rows
from tests.results import test_merge
from tests.soundness import faults, test_planted

RED = (AssertionError, pytest.fail.Exception)
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """What is planted, and the test that must notice: called with `arguments`, before them a fresh folder and behind
    them a patch if it takes one."""

    name: str
    plant: Plant
    test: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    red: type[BaseException] | tuple[type[BaseException], ...] = RED
    folder: bool = False
    patched: bool = False

    def run(self, folder: Path) -> None:
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            self.test(*([folder] if self.folder else []), *self.arguments, *([patch] if self.patched else []))


REJECTED = (
    test_mip.said("below", -1.0, torch.tensor([0.65, 0.3]).double().numpy()),
    "witness rejected by the forward pass (target 0)",
)


planted = test_planted.test_quick_bounds_hold_at_planted_inputs
searched = test_search.test_without_its_own_attacks_it_proves_nothing_false

FAULTS = [
    Fault("dual norm", faults.wrong_dual_norm, test_dual.test_golden_margins_and_robust_loss, test_dual.GOLDEN[2]),
    Fault("dual norm", faults.wrong_dual_norm, test_dual.test_equals_the_dense_dual, (1, 1.0, 0.4)),
    Fault("dual norm", faults.wrong_dual_norm, test_balls.test_without_a_box_the_reach_is_the_dual_norm, (3.0,)),
    Fault("dual norm", faults.wrong_dual_norm, planted, ("crown", 3.0, None)),
    Fault("linf norm", faults.wrong_linf_dual_norm, planted, ("dual", math.inf, (0.0, 1.0))),
    Fault("linf norm", faults.wrong_linf_dual_norm, test_dual.test_golden_margins_and_robust_loss, test_dual.GOLDEN[0]),
    Fault("box", faults.box_dropped, test_dual.test_golden_box),
    Fault("box", faults.box_dropped, test_dual.test_box_never_loosens, (2.0, 0.25)),
    Fault("box", faults.box_dropped, test_balls.test_the_box_matters_at_its_border),
    Fault(
        "box",
        faults.box_dropped_in_the_reach,
        test_interval.test_first_layer_is_the_support_function_of_its_dense_rows,
        (nets()[1], 1.0, (0.0, 1.0)),
    ),
    Fault("box", faults.box_kept, planted, ("dual", math.inf, None)),
    Fault("slope", faults.flipped_slope, planted, ("dual", 2.0, (0.0, 1.0))),
    Fault("slope", faults.flipped_slope, test_dual.test_golden_margins_and_robust_loss, test_dual.GOLDEN[0]),
    Fault("slope", faults.flipped_slope, test_dual.test_golden_hidden_bounds),
    Fault("slope", faults.flipped_slope, test_dual.test_parallelogram_contains_the_relu),
    Fault("padding", faults.full_filter_at_the_border, test_rows.test_padding_is_not_read),
    Fault("padding", faults.full_filter_at_the_border, test_dual.test_equals_the_dense_dual, (2, 2.0, 0.25)),
    Fault("padding", faults.full_filter_at_the_border, test_dual.test_equals_the_dense_dual, (4, math.inf, 0.05)),
    Fault("padding", faults.padding_is_read, planted, ("interval", 1.0, (0.0, 1.0))),
    Fault("padding", faults.full_filter_at_the_border, planted, ("crown", math.inf, (0.0, 1.0))),
    Fault("padding", faults.padding_is_read, test_rows.test_windows_equal_the_adjoint, test_rows.TOWERS[0]),
    Fault("padding", faults.padding_is_read, test_dual.test_equals_the_dense_dual, (2, math.inf, 0.05)),
    Fault(
        "contradiction",
        faults.contradiction_in_the_records,
        test_merge.test_commands_add_up,
        red=ContradictionError,
        folder=True,
    ),
    Fault(
        "contradiction",
        faults.contradiction_ignored,
        test_merge.test_contradictions_across_commands,
        (True, True),
        folder=True,
    ),
    Fault(
        "merging",
        faults.box_ignored_in_merging,
        test_merge.test_boxed_certificates_and_unboxed_witnesses_serve_their_own_ball,
        red=(*RED, ContradictionError),
        folder=True,
    ),
    Fault(
        "split",
        faults.half_forgotten,
        test_search.test_verdicts_are_those_of_brute_force,
        (math.inf, None, 3.0),
    ),
    Fault(
        "split",
        faults.multiplier_of_the_wrong_sign,
        test_system.test_golden_multipliers,
        ([(1, 0, 1)], 0.0375, 0.108190),
    ),
    Fault("split", faults.half_forgotten, searched, (math.inf, None), patched=True),
    Fault("split", faults.bounds_of_one_half, test_refinement.test_samples_respect_refined_bounds, (math.inf, 0.25)),
    Fault("split", faults.stale_hidden_bounds, searched, (1.0, None), patched=True),
    Fault("split", faults.idle_units_count, test_search.test_leaves_hold_points_on_both_sides_of_idle_units),
    Fault(
        "float32",
        faults.no_rounding_error,
        test_rounding.test_float32_bounds_with_their_margin_stay_below_float64_bounds,
    ),
    Fault(
        "float32",
        faults.no_rounding_error,
        test_rounding_extremes.test_widened_float32_bounds_hold,
        ("deep", math.inf, 0.05, None),
    ),
    Fault("float32", faults.float32_certificate, test_certify.test_a_float32_margin_is_no_proof),
    Fault("witness", faults.stale_witness, test_verify.test_a_stale_witness_is_not_accepted, folder=True),
    Fault("witness", faults.stale_witness, test_verify.test_a_point_that_is_classified_correctly_is_no_witness),
    Fault("witness", faults.stale_witness, test_mip.test_what_is_not_proved_is_never_a_verdict, REJECTED),
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
