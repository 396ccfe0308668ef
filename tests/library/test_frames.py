"""Radii by channel and inputs normalised outside the network, against exact arithmetic and brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustcli as robust
from robustcli.errors import UsageError
from robustcli.evaluation.certify import BOUNDS, stages
from robustcli.library.asking import ask
from robustcli.library.frames import Normalised, Rounded
from robustcli.networks.layers import Normalise
from robustcli.norms import NORMS, exponent
from tests import oracle
from tests.library.models import as_torch, convolutional, doubled, perceptron
from tests.nets import dense

EPS = (0.3, 0.05, 0.12)
LOW, HIGH = (0.0, -0.2, 0.1), (1.0, 0.6, 1.3)


def scaled(model: nn.Sequential, unit: tuple[float, ...]) -> nn.Sequential:
    """z -> f(unit z), by weights."""
    first = model[0].weight.data * torch.tensor(unit, dtype=torch.float64)
    found = nn.Sequential(nn.Linear(*reversed(first.shape), dtype=torch.float64), *list(model)[1:])
    found[0].weight.data, found[0].bias.data = first, model[0].bias.data
    return found


def small(seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A random dense classifier of three features in float64, points in the box, predicted classes."""
    model = as_torch(dense([3, 4, 4, 3], seed))
    low, high = torch.tensor(LOW, dtype=torch.float64), torch.tensor(HIGH, dtype=torch.float64)
    many = low + (high - low) * torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model[-1].bias.data -= model(many).detach().mean(0)  # so that classes meet inside the box
    points = many[:4]
    points[0, 0] = LOW[0]
    return model, points, model(points).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [True, False])
def test_radii_by_channel_against_brute_force(norm: str, boxed: bool) -> None:
    """Complete certification says what enumeration says of z = x / eps, and every margin proved holds."""
    model, points, labels = small(7)
    box = (LOW, HIGH) if boxed else None
    answer = robust.certify(model, points, labels, norm=norm, eps=EPS, box=box, complete=True, max_nodes=500)
    inner = robust.convert(scaled(model, EPS), (3,))
    ends = tuple(tuple(end / e for end, e in zip(side, EPS, strict=True)) for side in (LOW, HIGH)) if boxed else None
    truths = [
        oracle.minimal_margin(inner, x, label, 1.0, exponent(norm), ends)
        for x, label in zip(points / torch.tensor(EPS), labels.tolist(), strict=True)
    ]
    assert answer.verdicts == ["robust" if truth > 0 else "vulnerable" for truth in truths]
    assert set(answer.verdicts) == {"robust", "vulnerable"}
    assert min(map(abs, truths)) > 1e-6
    assert bool((answer.lower <= torch.tensor(truths) + 1e-7).all())
    assert bool((answer.upper >= torch.tensor(truths) - 1e-7).all())
    for names in ([name] for name in BOUNDS if stages()[name].applies(exponent(norm))):
        alone = robust.certify(model, points, labels, norm=norm, eps=EPS, box=box, methods=names)
        assert bool((alone.lower <= torch.tensor(truths) + 1e-7).all())
    if norm != "l2":
        alone = robust.certify(model, points, labels, norm=norm, eps=EPS, box=box, methods=["dual", "lp"])
        assert bool((alone.lower <= torch.tensor(truths) + 1e-7).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [True, False])
def test_distances_in_pixels_against_brute_force(norm: str, boxed: bool) -> None:
    """With inputs=Normalised(mean, std) distances are those of the network behind its normalisation."""
    mean, std = (0.2, 0.1, 0.4), (0.5, 2.0, 0.25)
    model, pixels, _ = small(3)
    points = (pixels - torch.tensor(mean)) / torch.tensor(std)
    labels = model(points).argmax(1)
    box = (LOW, HIGH) if boxed else None
    answer = robust.distance(model, points, labels, norm=norm, box=box, inputs=Normalised(mean, std), regions=None)
    inner = scaled(model, tuple(1 / s for s in std))
    inner[0].bias.data = inner[0].bias.data - inner[0].weight.data @ torch.tensor(mean, dtype=torch.float64)
    network = robust.convert(inner, (3,))
    truths = [
        oracle.minimal_distance(network, x, label, exponent(norm), box)
        for x, label in zip(pixels, labels.tolist(), strict=True)
    ]
    assert answer.lower.tolist() == pytest.approx(truths, rel=2e-6)
    assert answer.upper.tolist() == pytest.approx(truths, rel=2e-6)
    assert bool(answer.exact.all())
    assert sorted(answer.witnesses) == [0, 1, 2, 3]
    for row, x in answer.witnesses.items():
        assert int(doubled(model, x.unsqueeze(0)).argmax()) != labels[row]
        moved = (x - points[row]) * torch.tensor(std)
        assert float(torch.linalg.vector_norm(moved, ord=exponent(norm))) == pytest.approx(float(answer.upper[row]))


AFFINE = nn.Sequential(nn.Linear(2, 2))
numbers = st.floats(-3, 3, allow_subnormal=False)
positive = st.floats(1e-4, 1e4)


@settings(max_examples=60, deadline=None)
@given(
    x=st.tuples(numbers, numbers),
    mean=st.tuples(numbers, numbers),
    std=st.tuples(positive, positive),
    eps=st.tuples(positive, positive) | positive,
    share=st.floats(0, 1),
    norm=st.sampled_from(NORMS),
)
def test_the_ball_in_z_contains_the_ball_asked_about(
    x: tuple[float, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    eps: tuple[float, ...] | float,
    share: float,
    norm: str,
) -> None:
    """In exact arithmetic: points of the surface of || (x - x0) std / eps ||_p <= 1, and the box's corners."""
    point, label = torch.tensor([x], dtype=torch.float64), torch.tensor([0])
    asked = ask(AFFINE, point, label, norm, eps, (-1e9, 1e9), Normalised(mean, std))
    assert asked.frame is not None
    radii = [Fraction(e) for e in (eps if isinstance(eps, tuple) else (eps, eps))]
    means, stds, centres = ([Fraction(v) for v in values] for values in (mean, std, x))
    kept = [
        [Fraction(float(v)) for v in row.flatten()] for row in (asked.frame.mean, asked.frame.std, asked.ball.center)
    ]
    limit = Fraction(float(asked.ball.eps[0]))
    unit = Fraction(float(share))
    weights = {"linf": (1, 1), "l1": (unit, 1 - unit), "l2": (2 * unit / (1 + unit**2), (1 - unit**2) / (1 + unit**2))}
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        moved = [c + w * s * r / d for c, w, s, r, d in zip(centres, weights[norm], signs, radii, stds, strict=True)]
        z = [v * d + m for v, m, d in zip(moved, kept[0], kept[1], strict=True)]
        off = [abs(a - b) for a, b in zip(z, kept[2], strict=True)]
        inside = {"linf": max(off) <= limit, "l1": sum(off) <= limit, "l2": sum(o * o for o in off) <= limit**2}
        assert inside[norm]
    assert asked.ball.box is not None
    for side, sign in ((asked.ball.box[0], -1), (asked.ball.box[1], 1)):
        ends = [Fraction(float(v)) for v in torch.as_tensor(side, dtype=torch.float64).expand(2)]
        corner = [(sign * 10**9 - m) / d for m, d in zip(means, stds, strict=True)]
        z = [v * d + m for v, m, d in zip(corner, kept[0], kept[1], strict=True)]
        exact = eps != (1.0, 1.0) and isinstance(eps, tuple)
        assert all(sign * (e - v) >= (0 if exact else -Fraction(1, 10**6)) for e, v in zip(ends, z, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_normalised_inputs_are_a_normalisation_layer(norm: str) -> None:
    """The same margins as the network with the layer inside, asked in pixels; and by radii and box per channel."""
    model, pixels = convolutional(), torch.rand(6, 3, 6, 6, dtype=torch.float64)
    mean, std = torch.tensor([0.25, 0.5, 0.375]), torch.tensor([0.25, 0.5, 0.125])  # all of it exact in float32
    points = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    inside = nn.Sequential(Normalise((3, 6, 6), mean.tolist(), std.tolist()), model)
    labels = doubled(model, points).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    eps = {"linf": 0.01, "l2": 0.05, "l1": 0.2}[norm]
    expected = robust.certify(inside, pixels, labels, norm=norm, eps=eps, box=(0, 1))
    found = robust.certify(model, points, labels, norm=norm, eps=eps, box=(0, 1), inputs=Normalised(mean, std))
    box = ((0 - mean) / std, (1 - mean) / std)
    by_channel = robust.certify(model, points, labels, norm=norm, eps=eps / std, box=box)
    assert expected.verdicts == found.verdicts == by_channel.verdicts
    assert {"robust", "misclassified"} <= set(expected.verdicts)
    torch.testing.assert_close(found.lower, expected.lower, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(by_channel.lower, expected.lower, rtol=1e-5, atol=1e-6)  # eps / std in float32


def test_witnesses_are_points_as_given() -> None:
    """Misclassified by the user's own model, within the radius of every channel."""
    model, pixels = convolutional(), torch.rand(5, 3, 6, 6)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    points = (pixels - mean) / std
    labels = model(points).argmax(1)
    eps = torch.tensor([0.3, 0.1, 0.2])
    ends = (0 - mean) / std, (1 - mean) / std
    answer = robust.attack(model, points, labels, norm="linf", eps=eps, box=ends, steps=30)
    assert answer.counts["vulnerable"] == len(answer.witnesses) > 0
    for row, x in answer.witnesses.items():
        assert answer.verdicts[row] == "vulnerable"
        assert int(doubled(model, x.unsqueeze(0)).argmax()) != labels[row]
        assert bool(((x - points[row]).abs() <= eps.double().view(3, 1, 1)).all())
        assert bool(((x >= ends[0] - 1e-6) & (x <= ends[1] + 1e-6)).all())


def test_the_search_is_in_the_precision_of_the_model() -> None:
    model = perceptron(2, 4, 3)
    asked = ask(model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "linf", (0.1, 0.2), None, None)
    assert isinstance(asked.network, Rounded)
    assert (asked.network.dtype, asked.network.double().dtype) == (torch.float32, torch.float64)
    z = torch.rand(3, 2, dtype=torch.float64)
    expected = doubled(model, torch.zeros(3, 2)) + 0 * z.sum()
    found = asked.network.double()(torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert asked.network(z.float()).dtype == torch.float32
    assert asked.network.state_dict().keys() == asked.network.double().state_dict().keys()


def test_vectors_seen_as_images() -> None:
    """Constants of a vector's features must be those of the image's channels."""
    model = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    points, labels = torch.rand(3, 8), torch.zeros(3, dtype=torch.int64)
    by_channel = torch.tensor([0.1] * 4 + [0.2] * 4)
    answer = robust.certify(model, points, labels, norm="l2", eps=by_channel)
    assert len(answer) == 3
    with pytest.raises(UsageError, match="between its channels only"):
        robust.certify(model, points, labels, norm="l2", eps=torch.arange(1, 9) / 100)


def test_rounding_may_leave_points_outside_the_box_by_a_little() -> None:
    model, labels = perceptron(2, 4, 3), torch.zeros(1, dtype=torch.int64)
    inputs = Normalised(0.1307, 0.3081)
    black = (torch.zeros(1, 2) - 0.1307) / 0.3081  # float32: up to 1e-8 below 0 on the way back
    answer = robust.certify(model, black, labels, norm="linf", eps=0.1, box=(0, 1), inputs=inputs)
    assert len(answer) == 1
    with pytest.raises(UsageError, match="point 0 lies outside the box"):
        robust.certify(model, black - 1e-4, labels, norm="linf", eps=0.1, box=(0, 1), inputs=inputs)
    with pytest.raises(UsageError, match="point 0 lies outside the box"):
        robust.certify(model, black, labels, norm="linf", eps=0.1, box=(0, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": (0.1, 0.2)}, "eps has shape [2], inputs have [3, 6, 6]"),
        ({"eps": torch.ones(3, 6, 6)}, "or a tensor [3, 1, 1]"),
        ({"eps": (0.1, 0.0, 0.1)}, "must be positive"),
        ({"eps": (0.1, math.nan, 0.1)}, "is not finite"),
        ({"eps": [[1], [2, 3]]}, "not a number, nor one per channel"),
        ({"inputs": Normalised(0.0, (1, 1, 0))}, "every std must be positive"),
        ({"inputs": Normalised((0.1, 0.2), 1.0)}, "mean has shape [2]"),
        ({"box": (0, (1, 1))}, "box has shape [2]"),
        ({"eps": (0.1, 0.1, 8), "box": (0, 1)}, ""),
        ({"eps": (2, 2, 8), "box": (0, 1)}, "larger than the box"),
    ],
)
def test_what_does_not_fit_the_channels(change: dict[str, object], words: str) -> None:
    question = {"norm": "linf", "eps": 0.1, **change}
    model, points = convolutional(), torch.rand(2, 3, 6, 6)
    if not words:
        robust.certify(model, points, torch.tensor([0, 1]), **question)  # type: ignore[arg-type]
        return
    with pytest.raises(UsageError) as caught:
        robust.certify(model, points, torch.tensor([0, 1]), **question)  # type: ignore[arg-type]
    assert words in str(caught.value)
