"""The stages of 002's cascade: ordered between the triangle and the network, sound against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual, parallelogram
from robustcli.bounds.types import Bounds
from robustcli.bounds.zonotope import zonotope, zonotope_per_class
from robustcli.errors import UsageError
from robustcli.evaluation.certify import Certifier, resolve
from robustcli.evaluation.partial_mip import hidden_layer
from robustcli.mip.formulations import with_binaries
from robustcli.mip.partial import Chosen, slope_gradients
from robustcli.mip.solver import SOLVERS
from robustcli.mip.triangle import tighten, triangle
from robustcli.networks.network import Network, margin_rows
from tests.evaluation.test_cascade import ask, points, small
from tests.mip.cases import Case, image
from tests.mip.cases import small as mip_case
from tests.nets import convolutional, dense
from tests.oracle import minimal_margin

CASCADE = ["attack", "dual", "zonotope", "zonotope-per-class", "refine", "partial-mip"]


def least(found: Case, keep: np.ndarray, position: int = 0, formulation: str = "slack") -> float:
    """The minimum of a margin over the partly relaxed set, as HiGHS proves it."""
    problem = with_binaries(found.problem(formulation, position), keep)
    assert int(problem.binary.sum()) == keep.sum()
    outcome = SOLVERS["highs"]().minimise(problem, seconds=60, stop_below=-math.inf, stop_above=math.inf)
    assert outcome.status == "optimal"
    return outcome.bound


@pytest.mark.parametrize("formulation", ["slack", "sub"])
@pytest.mark.parametrize("seed", range(3))
def test_more_binaries_raise_the_minimum_from_the_triangle_to_the_network(seed: int, formulation: str) -> None:
    found = mip_case(seed, unstable=4)
    n = len(found.encoding.units)
    order = np.argsort([3, 1, 2] * n, kind="stable")
    order = order[order < n]
    values = [least(found, np.isin(np.arange(n), order[:count]), formulation=formulation) for count in range(n + 1)]
    lp = triangle(found.network, found.ball, found.rows.unsqueeze(0), found.layers).margins[0].item()
    assert values[0] == pytest.approx(lp, abs=1e-6)
    assert values[0] >= found.dual_margins[0] - 1e-9
    assert all(later >= earlier - 1e-7 for earlier, later in itertools.pairwise(values))
    logits = found.network(found.ball.sample(2000)[0])
    sampled = (logits @ found.rows[0]).min().item()
    assert values[-1] <= sampled + 1e-7
    exact = min(least(found, np.ones(n, dtype=bool), position) for position in range(len(found.targets)))
    assert exact == pytest.approx(minimal_margin(found.network, found.ball.center, found.label, 0.2, math.inf, (0, 1)))


def test_the_neurons_that_matter_most_are_exact() -> None:
    encoding = image(0, 0.1).encoding
    weights = [
        torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) for shape in ((3, 4, 4), (4, 2, 2), (6,))
    ]
    late = [place for place in range(len(encoding.units)) if encoding.layers[place] >= 1]
    assert 3 < len(late) < len(encoding.units)
    for target, most in itertools.product((0, 1), (0, 1, 3, None)):
        keep = Chosen(1, most, weights)(encoding, target)
        assert keep.sum() == (len(late) if most is None else most)
        size = {
            place: float(weights[encoding.layers[place]][target].flatten()[encoding.units[place]]) for place in late
        }
        kept = [size[place] for place in np.flatnonzero(keep)]
        left = [size[place] for place in late if not keep[place]]
        assert not kept or not left or min(kept) >= max(left)


def test_slope_gradients_of_the_last_layer_are_those_of_the_zonotope_written_out() -> None:
    """margin = row (slope z + gap/2) - |row| gap/2 - reach, with the gap's derivative at its bend the mean of both."""
    network = dense([3, 6, 5, 3], 2)
    ball = Ball.around(points(1, 3), 0.15, math.inf, (0.0, 1.0))
    rows, _ = margin_rows(network(ball.center).argmax(1), 3, torch.float64)
    known = dual(network, ball, rows, outward=False).layers
    first, last = slope_gradients(network, ball, rows, known)
    assert (first.shape, last.shape) == ((2, 6), (2, 5))
    assert bool(first.any())
    assert not first[:, ~known[0].unstable[0]].any()
    assert not last[:, ~known[1].unstable[0]].any()
    weights = [block.layers[0].weight.detach() for block in network.blocks]
    relaxation = parallelogram(known[0])
    slope, gap = relaxation.slope[0], relaxation.gap[0]
    low, high = ball.bounding_box()
    middle = slope * network.blocks[0](ball.middle())[0] + gap / 2
    terms = torch.cat([slope.unsqueeze(1) * weights[0] * (high - low)[0] / 2, torch.diag(gap / 2)], 1)
    middle, terms = network.blocks[1](middle.unsqueeze(0))[0].detach(), weights[1] @ terms
    row, slope = rows[0] @ weights[2], parallelogram(known[1]).slope[0]
    lower, upper = known[1].lower[0], known[1].upper[0]
    signs = (row @ (slope.unsqueeze(1) * terms)).sign()
    bend = (-lower - upper) / 2
    expected = row * (middle + bend / 2) - row.abs() * bend / 2 - row * (signs @ terms.T)
    open_units = known[1].unstable[0]
    assert bool(open_units.any())
    assert torch.allclose(last[:, open_units], expected[:, open_units], atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_slopes_per_class_are_sound_and_no_looser_than_the_dual(seed: int) -> None:
    network = dense([3, 8, 7, 4], seed)
    ball = Ball.around(points(3, 3, seed=seed), 0.15, math.inf, (0.0, 1.0))
    rows, _ = margin_rows(network(ball.center).argmax(1), 4, torch.float64)
    start, found = dual(network, ball, rows), zonotope_per_class(network, ball, rows)
    shared = zonotope(network, ball, rows)
    assert bool((found.margins >= start.margins).all())
    worst, together = found.margins.amin(1), shared.margins.amin(1)
    assert float(worst.sum()) >= float(together.sum()) - 0.05
    samples = ball.sample(500, torch.Generator().manual_seed(1))
    for point in range(3):
        values = network(samples[point]) @ rows[point].T
        assert bool((values.amin(0) >= found.margins[point]).all())
        for bounds, true in zip(found.layers, network.pre_activations(samples[point])[:-1], strict=True):
            signs = ~bounds.unstable[point]  # of settled units only the sign counts
            assert bool((true >= bounds.lower[point])[:, ~signs].all())
            assert bool((true <= bounds.upper[point])[:, ~signs].all())
            assert bool(((true >= 0) | (bounds.upper[point] <= 0))[:, signs].all())


def test_points_of_a_batch_do_not_meet() -> None:
    network = convolutional(5)
    ball = Ball.around(points(5, 1, 8, 8), 0.08, math.inf, (0.0, 1.0))
    rows, _ = margin_rows(network(ball.center).argmax(1), 4, torch.float64)
    whole = zonotope_per_class(network, ball, rows)
    for point in range(5):
        alone = zonotope_per_class(network, ball.take(slice(point, point + 1)), rows[point : point + 1])
        assert torch.allclose(alone.margins[0], whole.margins[point], atol=1e-9)


def test_one_layer_is_tightened_and_the_others_left() -> None:
    found = image(1, 0.1)
    tighter = tighten(found.network, found.ball, found.layers, only=[1])
    samples = found.network.pre_activations(found.ball.sample(500)[0])
    for layer, (old, new) in enumerate(zip(found.layers, tighter, strict=True)):
        same = torch.equal(old.lower, new.lower) and torch.equal(old.upper, new.upper)
        assert same == (layer != 1)
        assert bool((new.lower >= old.lower).all())
        assert bool((new.upper <= old.upper).all())
        assert _holds(new, samples[layer])


def _holds(bounds: Bounds, values: torch.Tensor) -> bool:
    inside = (values >= bounds.lower - 1e-9) & (values <= bounds.upper + 1e-9)
    settled = ~bounds.unstable & (((values >= 0) == (bounds.lower >= 0)) | (values == 0))
    return bool((inside | settled).all())


def certify(network: Network, eps: float = 0.12, count: int = 12, **options: int | None) -> list[tuple[str, str]]:
    batch = ask(network, points(count, *network.input_shape), eps)
    settings = resolve(math.inf, True, CASCADE, **options)
    records = {record.index: record for record in Certifier(network, settings)(batch)}
    return [(records[index].verdict or "", records[index].method) for index in range(count)]


@pytest.mark.parametrize("options", [{}, {"max_binary": 1}, {"exact_from_layer": 1, "max_binary": 2}])
def test_verdicts_agree_with_brute_force(options: dict[str, int]) -> None:
    network, batch = small()
    truth = [
        minimal_margin(network, batch.points[row : row + 1], int(batch.labels[row]), 0.12, math.inf, (0.0, 1.0))
        for row in range(len(batch))
    ]
    verdicts = [verdict for verdict, _ in certify(network, **options)]
    assert all(margin > 0 for verdict, margin in zip(verdicts, truth, strict=True) if verdict == "robust")
    assert all(margin < 0 for verdict, margin in zip(verdicts, truth, strict=True) if verdict == "vulnerable")


def test_with_every_neuron_exact_the_cascade_is_complete() -> None:
    """Without the attack: even so every point is decided, some of them by the last stage."""
    network, batch = small()
    settings = resolve(math.inf, True, ["dual", "partial-mip"], exact_from_layer=1)
    records = list(Certifier(network, settings)(batch))
    assert {record.verdict for record in records} == {"robust", "vulnerable"}
    assert sum(record.method == "partial-mip" for record in records) > 1
    last = next(record for record in records if record.method == "partial-mip")
    details = last.details["partial-mip"]
    assert (details["solver_trusted"], details["exact_from_layer"]) == (True, 1)
    assert details["binaries"] > 0


def test_without_binaries_nothing_is_proved_beyond_the_triangle() -> None:
    network, batch = small()
    partial = resolve(math.inf, True, ["dual", "partial-mip"], max_binary=0)
    linear = resolve(math.inf, True, ["dual", "lp"])
    found, expected = (
        {record.index for record in Certifier(network, settings)(batch) if record.verdict == "robust"}
        for settings in (partial, linear)
    )
    assert found == expected


@pytest.mark.parametrize("options", [{"max_binary": 3}, {"exact_from_layer": 1}, {"refine_layer": 3}])
def test_options_without_their_stage_are_refused(options: dict[str, int]) -> None:
    (field,) = options
    with pytest.raises(UsageError, match="--" + field.replace("_", "-")):
        resolve(math.inf, True, ["dual"], **options)


@pytest.mark.parametrize("widths", [[3, 3], [3, 8, 3]])
def test_networks_with_fewer_layers_are_answered(widths: list[int]) -> None:
    network = dense(widths, 1)
    batch = ask(network, points(8, 3), 0.1)
    found = list(Certifier(network, resolve(math.inf, True, ["dual", "refine", "partial-mip"]))(batch))
    for record in found:
        truth = minimal_margin(
            network, batch.points[record.index : record.index + 1], record.label, 0.1, math.inf, (0, 1)
        )
        assert record.verdict == ("robust" if truth > 0 else "vulnerable")
    assert {record.verdict for record in found} == {"robust", "vulnerable"}


def test_a_layer_that_is_not_there_is_an_error() -> None:
    assert hidden_layer(2, 2, "--refine-layer") == 1
    with pytest.raises(UsageError, match="--refine-layer 3: the network has hidden layers 1 to 2"):
        hidden_layer(3, 2, "--refine-layer")


def test_questions_of_other_stages_are_as_they_were() -> None:
    """Old answers stay answers: what only these stages heed is not part of other questions."""
    fields = {"refine_layer", "exact_from_layer", "max_binary"}
    assert not fields & set(resolve(math.inf, True).asked)
    assert not fields & set(resolve(math.inf, True, complete=True).asked)
    assert fields <= set(resolve(math.inf, True, CASCADE).asked)
