"""`robust certify`: a record is `robust` only for what float64 proves, after rounding; which stages are asked."""

from __future__ import annotations

import math

import pytest
import torch

from robustcli.balls import Ball
from robustcli.bounds.dual import dual
from robustcli.errors import UnknownNameError, UsageError
from robustcli.evaluation.batch import Batch
from robustcli.evaluation.certify import COMPLETE, QUICK, SECONDS, Certifier, Settings, resolve, stages
from robustcli.networks.network import Network, margin_rows, margins
from tests.nets import dense


def largest_certified(network: Network, x: torch.Tensor, rows: torch.Tensor) -> float:
    """The radius at which the float64 dual bound of one point turns negative, to the last digits."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        found = dual(network, Ball.around(x, middle, math.inf, None), rows, outward=False).margins.min()
        low, high = (middle, high) if found > 0 else (low, middle)
    return high


def edge() -> tuple[Network, Batch]:
    """Points with radii a hair too large for a proof: the bound is about -1e-9, far below what float32 can see."""
    network = dense([6, 20, 20, 3], 1).float().double()
    x = torch.rand(30, 6, generator=torch.Generator().manual_seed(2)).double()
    labels = network(x).argmax(1)
    rows, _ = margin_rows(labels, 3, torch.float64)
    eps = [largest_certified(network, x[i : i + 1], rows[i : i + 1]) * (1 + 1e-9) for i in range(len(x))]
    ball = Ball(x, torch.tensor(eps, dtype=torch.float64), math.inf, None)
    clean = margins(network(x), labels)
    return network, Batch(torch.arange(len(x)), x, labels, labels, clean, ball)


def test_a_float32_margin_is_no_proof() -> None:
    network, batch = edge()
    rows, _ = margin_rows(batch.labels, 3, torch.float32)
    rough = dual(network.float(), batch.ball.to(torch.float32), rows, outward=False).margins.amin(1)
    network = network.to(torch.float64)
    assert (rough > 0).any()  # float32 would have proved some of them
    settings = Settings(methods=["dual"])
    records = list(Certifier(network, settings)(batch))
    assert {record.verdict for record in records} == {"unknown"}
    assert {record.reason for record in records} == {"bound not positive"}
    smaller = Batch(**{**vars(batch), "ball": Ball(batch.points, batch.ball.eps * 0.999, math.inf, None)})
    assert {record.verdict for record in Certifier(network, settings)(smaller)} == {"robust"}


def test_a_margin_that_is_no_number_is_unknown() -> None:
    network, batch = edge()
    network.layers[2].bias.data[0] = math.nan
    records = list(Certifier(network, Settings())(batch))
    assert {record.verdict for record in records} == {"unknown"}
    assert "NaN" not in records[0].model_dump_json()


def test_only_what_changes_an_answer_belongs_to_the_question() -> None:
    """Bounds have no settings: questions about them are those of all versions."""
    assert Settings(methods=["dual"], seed=5).asked == {"methods": ["dual"]}
    complete = resolve(math.inf, True, complete=True, seed=5)
    assert complete.asked.keys() == {"methods", "attack", "seed", "time_limit", "max_nodes"}
    assert complete.asked["seed"] == 5
    assert Settings.model_validate(complete.asked) == complete


def test_stages_are_asked_in_the_order_given() -> None:
    assert list(Settings(methods=["crown", "interval", "crown"]).chosen) == ["crown", "interval"]
    assert set(QUICK) | set(COMPLETE) <= set(stages())


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("boxed", [True, False])
def test_default_stages_know_their_ball(p: float, boxed: bool) -> None:
    quick, complete = (resolve(p, boxed, complete=wish).methods for wish in (False, True))
    assert complete[: len(quick)] == quick
    assert ("interval" in quick) == (not boxed or math.isinf(p))
    named = resolve(p, boxed, ["dual", "lp", "ball-offset"]).methods
    assert named == ["dual", "ball-offset" if p == 2 else "lp"]
    assert complete[-1] == "branch-and-bound"


def test_limits() -> None:
    assert resolve(2, True, complete=True).time_limit == SECONDS
    assert resolve(2, True, complete=True, time_limit=5).time_limit == 5
    reproducible = resolve(2, True, complete=True, max_nodes=9)
    assert (reproducible.time_limit, reproducible.max_nodes) == (None, 9)
    assert resolve(2, True).time_limit is None


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"methods": ["duall"]}, "did you mean 'dual'"),
        ({"methods": ["dual"], "complete": True}, "give one of them"),
        ({"max_nodes": 5}, "add --complete"),
        ({"time_limit": 5}, "add --complete"),
        ({"methods": ["dual", "lp"], "max_nodes": 5}, "add --complete"),
        ({"methods": ["branch-and-bound"]}, "--method dual --method branch-and-bound"),
        ({"methods": ["attack", "lp", "dual"]}, "--method dual --method lp"),
        ({"methods": ["ball-offset"]}, "does not know linf"),
    ],
)
def test_wishes_that_make_no_sense(wish: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(math.inf, True, **wish)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert caught.type is (UnknownNameError if "duall" in str(wish) else UsageError)


def test_of_several_norms_each_gets_the_stages_that_know_it() -> None:
    chosen = {p: resolve(p, True, ["dual", "ball-offset", "lp"]).methods for p in (1.0, 2.0, math.inf)}
    assert chosen == {1.0: ["dual", "lp"], 2.0: ["dual", "ball-offset"], math.inf: ["dual", "lp"]}
