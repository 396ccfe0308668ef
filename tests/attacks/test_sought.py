"""Attacks for the smallest distance by name: which there are, what an ensemble spends, what is refused."""

from __future__ import annotations

import math

import pytest

from robustcli.attacks.ensembles import ENSEMBLES, NEAREST_ENSEMBLES
from robustcli.attacks.registry import ALL, ROWS
from robustcli.attacks.sought import SOUGHT, distinct, searched_norms, seek, sought
from robustcli.errors import UnknownNameError, UsageError


def test_all_attacks_of_the_registry_with_that_goal() -> None:
    assert set(SOUGHT) == {"nearest", *(name for name, row in ROWS.items() if row.goal == "nearest")}
    assert all(row.goal == "nearest" for row in SOUGHT.values())
    assert not set(SOUGHT) & set(NEAREST_ENSEMBLES)


@pytest.mark.parametrize("p", [*ALL, 1.5, 3.0])
@pytest.mark.parametrize("name", NEAREST_ENSEMBLES)
def test_ensembles_leave_out_what_does_not_know_the_norm(name: str, p: float) -> None:
    if name == "paper-000" and 2 not in searched_norms(p):
        with pytest.raises(UsageError, match="no attack of paper-000 knows"):
            seek([name], p)
        return
    chosen = seek([name], p)
    assert chosen
    assert all(set(SOUGHT[one.name].norms) & set(searched_norms(p)) for one in chosen)


@pytest.mark.parametrize("p", ALL)
def test_the_budget_of_standard(p: float) -> None:
    spent = {
        name: sum(SOUGHT[one.name].passes(SOUGHT[one.name].settings(**one.settings), 10, p) for one in seek([name], p))
        for name in ("standard", "quick")
    }
    assert spent["quick"] < 1300
    assert spent["quick"] < spent["standard"] < 6000


def test_norms_on_both_sides() -> None:
    assert [searched_norms(p) for p in ALL] == [[1.0], [2.0], [math.inf]]
    assert searched_norms(1.5) == [2.0, 1.0]
    assert searched_norms(4.0) == [2.0, math.inf]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.goal == "radius"])
def test_attacks_with_a_radius_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"attack {name} looks for any misclassified point") as caught:
        seek(["fab", name], 2.0)
    assert caught.value.hint is not None
    assert f"robust attack --attack {name} --eps" in caught.value.hint


def test_typos_get_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError) as caught:
        seek(["nearst"], 2.0)
    assert caught.value.hint == "did you mean 'nearest'?"


def test_an_attack_named_must_know_the_norm() -> None:
    with pytest.raises(UsageError, match="attack ddn does not know linf") as caught:
        seek(["ddn"], math.inf)
    assert caught.value.hint == "it knows l2; ensembles leave it out"
    assert [one.name for one in seek(["ddn"], 1.5)] == ["ddn"]


def test_options_go_where_they_exist() -> None:
    chosen = seek(["fab", "carlini-wagner", "fab"], 2.0, {"steps": 7, "targets": 2, "restarts": None})
    assert [one.name for one in chosen] == ["fab", "carlini-wagner"]
    assert [one.settings.get("targets") for one in chosen] == [2, None]
    assert {one.settings["steps"] for one in chosen} == {7}
    assert chosen[0].settings["restarts"] == 5
    with pytest.raises(UsageError, match="none of nearest has 'targets'"):
        seek(["nearest"], 2.0, {"targets": 2})
    with pytest.raises(UsageError, match="attack fab: steps"):
        sought("fab", steps=0)


def test_repeated_names_are_numbered() -> None:
    assert distinct(["fab", "ddn", "fab", "fab"]) == ["fab", "ddn", "fab-2", "fab-3"]


def test_ensembles_of_both_questions_share_names_only() -> None:
    assert set(NEAREST_ENSEMBLES) == {"standard", "quick", "paper-000", "paper-001"} == set(ENSEMBLES)
