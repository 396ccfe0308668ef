"""Attacks and ensembles by name, and what a small budget leaves of their settings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from robustcli.attacks.ensembles import ENSEMBLES, Chosen, choose
from robustcli.attacks.registry import ALL, ROWS, fitted
from robustcli.errors import UnknownNameError, UsageError


def names(chosen: list[Chosen]) -> list[str]:
    return [one.name for one in chosen]


@pytest.mark.parametrize("name", ROWS)
def test_every_line_is_whole(name: str) -> None:
    row = ROWS[name]
    settings = row.settings()
    assert row.words
    assert set(row.norms) <= set(ALL)
    for p in row.norms:
        assert row.passes(settings, 10, p) > 0
    assert Chosen.of(name).resolved() == settings
    assert name not in ENSEMBLES


@pytest.mark.parametrize("p", ALL)
@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_leave_out_what_does_not_know_the_norm(name: str, p: float) -> None:
    chosen = choose([name], p)
    assert chosen
    assert all(p in ROWS[one.name].norms for one in chosen)


def test_names_in_order_each_once() -> None:
    assert choose([], 2.0) == choose(["standard"], 2.0)
    assert names(choose(["fgsm", "apgd-ce", "fgsm"], math.inf)) == ["fgsm", "apgd-ce"]
    assert names(choose(["fgsm", "quick"], math.inf)) == ["fgsm", *names(choose(["quick"], math.inf))]


def test_the_papers_protocols() -> None:
    plain = choose(["paper-000"], math.inf)[0]
    assert (plain.name, plain.settings["steps"], plain.settings["restarts"]) == ("pgd", 40, 1)
    plain = choose(["paper-001"], 1.0)[0]
    assert (plain.name, plain.settings["steps"], plain.settings["restarts"]) == ("pgd", 100, 10)


def test_options_go_where_they_exist() -> None:
    chosen = choose(["fgsm", "pgd"], 2.0, {"steps": 7, "restarts": None})
    assert [one.settings.get("steps") for one in chosen] == [None, 7]
    assert chosen[1].settings["restarts"] == 10
    with pytest.raises(UsageError, match="none of fgsm has 'steps'"):
        choose(["fgsm"], 2.0, {"steps": 7})
    with pytest.raises(UsageError, match="attack pgd: steps"):
        choose(["pgd"], 2.0, {"steps": 0})


def test_typos_get_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="unknown attack 'agpd-ce'") as caught:
        choose(["agpd-ce"], 2.0)
    assert caught.value.hint == "did you mean 'apgd-ce'?"
    with pytest.raises(UnknownNameError) as caught:
        choose(["standart"], 2.0)
    assert caught.value.hint == "did you mean 'standard'?"


def test_an_attack_named_must_know_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an ensemble it is left out instead."""
    from dataclasses import replace

    monkeypatch.setitem(ROWS, "fgsm", replace(ROWS["fgsm"], norms=(2.0,)))
    monkeypatch.setitem(ENSEMBLES, "quick", (*ENSEMBLES["quick"], type(ENSEMBLES["quick"][0])("fgsm")))
    with pytest.raises(UsageError, match="attack fgsm does not know linf") as caught:
        choose(["fgsm"], math.inf)
    assert caught.value.hint == "it knows l2; ensembles leave it out"
    assert "fgsm" not in names(choose(["quick"], math.inf))
    assert "fgsm" in names(choose(["quick"], 2.0))


@pytest.mark.parametrize("passes", [1, 30, 100, 777, 2000, 10**6])
@pytest.mark.parametrize(("name", "p"), [(name, p) for name, row in ROWS.items() for p in row.norms])
def test_what_a_budget_leaves_fits_it_and_wastes_little(name: str, passes: int, p: float) -> None:
    row = ROWS[name]
    whole = row.settings()
    most = row.passes(whole, 10, p)
    left = fitted(row, whole, passes, 10, p)
    if left is None:
        assert passes < most
        return
    spent = row.passes(left, 10, p)
    assert spent <= passes
    assert (left == whole) == (most <= passes)
    if left != whole and {"steps", "restarts", "targets"} & type(whole).model_fields.keys():
        assert spent > 0.3 * passes


def test_the_documented_cost_of_standard() -> None:
    """Passes at most, ten classes, as docs/attack.md gives them."""
    spent = {}
    for name, p in (("linf", math.inf), ("l2", 2.0), ("l1", 1.0)):
        spent[name] = sum(ROWS[one.name].passes(one.resolved(), 10, p) for one in choose((), p))
    words = "`standard` spends at most {linf:,} passes on a point for linf, {l2:,} for l2, {l1:,} for l1."
    page = Path(__file__).parents[2] / "docs" / "attack.md"
    assert words.format(**spent) in page.read_text()
