"""`--set`: values, order, and what can be set."""

from __future__ import annotations

import itertools

import pytest

from robustcli.errors import RecipeError
from robustcli.recipes.loading import from_text
from robustcli.recipes.methods import Adversarial, MaximumMargin, Plain
from robustcli.recipes.overrides import canonical, normalise
from tests.recipes.examples import GOOD


def _with(*overrides: str):
    return from_text(GOOD, "example.yaml", overrides)


def test_values_are_yaml() -> None:
    recipe = _with("training.epochs=20", "eps.linf=2/255", "method.gamma=1e-3", "published=[]", "partial=true")
    assert recipe.training.epochs == 20
    assert recipe.eps["linf"] == 2 / 255
    assert recipe.method.gamma == 1e-3
    assert recipe.partial is True


def test_a_nested_value_keeps_the_defaults_beside_it() -> None:
    recipe = _with("training.optimiser.lr=1e-4")
    assert recipe.training.optimiser.name == "adam"
    assert recipe.training.optimiser.lr == 1e-4
    assert recipe.training.batch_size == 128


def test_settings_given_in_part_keep_the_defaults_of_their_method() -> None:
    """In a file as on the command line: a share of CROWN-IBP starts at 1, of any other method at 0."""
    interval = "ramp: {epochs: 2}, norms: [linf]"
    for method, path, given, expected in (
        (f"name: crown-ibp, {interval}", "beta", {"end": 0.5}, {"start": 1.0, "end": 0.5}),
        (
            f"name: sabr, ratio: 0.4, {interval}",
            "attack",
            {"radius": 2.0},
            {"steps": 8, "step_size": 0.5, "radius": 2.0},
        ),
    ):
        ((key, value),) = given.items()
        inline = _with(f"method={{{method}, {path}: {{{key}: {value}}}}}")
        apart = _with(f"method={{{method}}}", f"method.{path}.{key}={value}")
        assert getattr(inline.method, path).model_dump() == expected
        assert inline.hash == apart.hash


def test_the_whole_method_can_be_replaced() -> None:
    assert _with("method={name: plain}").method == Plain(name="plain")
    recipe = _with("method.adversarial={name: at, norms: [linf]}", "method.adversarial.steps=7")
    assert recipe.method.adversarial == Adversarial(name="at", norms=["linf"], steps=7)


def test_order_does_not_matter() -> None:
    overrides = ["method={name: mmr, norm: l2, lmbd: 1, gamma: 0.3}", "method.gamma=0.45", "norm=l2", "eps.l2=0.25"]
    recipes = {_with(*order).hash for order in itertools.permutations(overrides)}
    assert len(recipes) == 1
    recipe = _with(*overrides)
    assert isinstance(recipe.method, MaximumMargin)
    assert recipe.method.gamma == 0.45
    assert {tuple(canonical(order)) for order in itertools.permutations(overrides)} == {tuple(canonical(overrides))}


def test_equal_assignments_have_one_text() -> None:
    assert canonical(["a.b=1e-3"]) == canonical(["a.b=0.001"]) == canonical([" a.b =1.0e-3"]) == ["a.b=0.001"]
    assert canonical(["m={b: 1, a: 2}"]) == canonical(["m={a: 2, b: 1}"])
    assert canonical(["a=1", "a=1"]) == ["a=1"]
    assert canonical(["a=x=y"]) == ['a="x=y"']
    assert canonical([]) == []


def test_list_items() -> None:
    recipe = _with("method={name: at, norms: [l2, linf]}", "method.norms.0=linf", "method.norms.1=l2")
    assert recipe.method.norms == ["linf", "l2"]
    with pytest.raises(RecipeError, match=r"no item '5' in this list \(items: 0 to 0\)"):
        _with("training.schedule.shares.5=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set training.epochs: not of the form key=value"),
        ("=3", "not of the form"),
        ("a..b=3", "not of the form"),
        ("name=other", "a recipe's name cannot be set"),
        ("eps=[1", "the value is not YAML"),
        ("summary.x=1", "summary is 'a recipe', not a mapping; set summary itself"),
        ("training.epoch=3", "--set: training.epoch: unknown key (did you mean 'epochs'?)"),
        ("trainning.epochs=3", "--set: trainning: unknown key (did you mean 'training'?)"),
        ("lmbd=3", "--set: lmbd: unknown key (did you mean 'method.lmbd'?)"),
        ("training.epochs=0", "--set: training.epochs: must be greater than or equal to 1, not 0"),
        ("method=plain", "--set: method: must be a mapping of keys to values, not 'plain'"),
        ("method.name=mrm", "--set: method.name: unknown name 'mrm' (did you mean 'mmr'?)"),
        ("eps.lnf=1", "--set: eps.lnf: must be 'l1', 'l2' or 'linf', not 'lnf' (did you mean 'linf'?)"),
        ("eps.linf=", "--set: eps.linf: "),
    ],
)
def test_what_cannot_be_set(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _with(override)
    assert message in str(caught.value)


def test_all_bad_overrides_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        normalise(["x", "name=y", "a=1", "a=2"])
    assert len(caught.value.message.splitlines()) == 3
    assert "set twice, to 1 and 2" in caught.value.message
    with pytest.raises(RecipeError) as caught:
        _with("training.epoch=3", "method.gama=1", "norm=lin")
    assert len(caught.value.message.splitlines()) == 3


def test_changing_the_kind_says_how() -> None:
    with pytest.raises(RecipeError, match="set the whole of it"):
        _with("training.schedule.name=constant")
    assert _with("training.schedule={name: constant}").training.schedule.name == "constant"
