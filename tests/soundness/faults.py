"""Faults to be planted into the code, one function each, by monkeypatching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
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
from robustcli.branch_and_bound.passes import Phases
from robustcli.branch_and_bound.refinement import _Leaves
from robustcli.branch_and_bound.system import System
from robustcli.networks.network import Network
from robustcli.networks.rows import Rows
from tests.attacks import test_verify
from tests.bounds import test_dual, test_rounding
from tests.results import test_merge


def wrong_dual_norm(patch: pytest.MonkeyPatch) -> None:
    """The norm itself instead of its dual."""
    patch.setattr("robustcli.balls.dual", lambda p: p)


def wrong_linf_dual_norm(patch: pytest.MonkeyPatch) -> None:
    """The largest entry instead of the sum: the reach of linf balls."""

    def reaches(rows: Rows, ball: Ball) -> tuple[Tensor, Tensor]:
        low, high = ball.bounding_box()
        reached = (rows.values.abs() * rows.gather((high - low) / 2)).flatten(1).amax(1)
        return reached, reached

    patch.setattr("robustcli.bounds.pull.reaches", reaches)


def box_dropped(patch: pytest.MonkeyPatch) -> None:
    """The room of a coordinate forgets the box."""

    def room(ball: Ball) -> tuple[Tensor, Tensor]:
        eps = ball.eps.view(-1, *[1] * (ball.center.dim() - 1)).expand_as(ball.center)
        return eps, eps

    patch.setattr(Ball, "room", room)


def box_kept(patch: pytest.MonkeyPatch) -> None:
    """Cut with the unit box where no box was asked for."""
    room = Ball.room

    def boxed(ball: Ball) -> tuple[Tensor, Tensor]:
        return room(replace(ball, box=(0.0, 1.0)))

    patch.setattr(Ball, "room", boxed)


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


def half_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A split keeps the bounds of one half for both."""
    split = Domains.split

    def halved(domains: Domains, units: Tensor) -> Domains:
        both = split(domains, units)
        return replace(both, signs=both.signs[: len(domains)].repeat(2, 1))

    patch.setattr(Domains, "split", halved)


def bounds_of_one_half(patch: pytest.MonkeyPatch) -> None:
    """Hidden bounds after a split are those of the better half, and kept for the whole ball."""

    def best(leaves: _Leaves) -> Tensor:
        most = torch.full_like(leaves.known, -torch.inf)
        return torch.maximum(
            leaves.known, most.scatter_reduce(0, leaves.domains.targets, leaves.domains.proved, "amax")
        )

    patch.setattr(_Leaves, "ends", best)


def stale_hidden_bounds(patch: pytest.MonkeyPatch) -> None:
    """Hidden bounds that hold in one small domain stay in force in all others: here a tenth of the range upwards."""
    of = Phases.of

    def kept(cls: type[Phases], system: System, signs: Tensor) -> Phases:
        whole, part = of(system, signs), of(replace(system, upper=system.upper / 10), signs)
        split = (signs != 0).any(1, keepdim=True)
        return Phases(
            *(torch.where(split, getattr(part, field.name), getattr(whole, field.name)) for field in fields(Phases))
        )

    patch.setattr(Phases, "of", classmethod(kept))


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
