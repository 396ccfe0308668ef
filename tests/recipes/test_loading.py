"""Files to recipes: what is accepted, and every error with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcli.errors import RecipeError, UnknownNameError
from robustcli.recipes.loading import dump, find, from_text, load, names, read
from robustcli.recipes.methods import Adversarial, ConvexPolytope, MaximumMargin, MaximumMarginUniversal, Plain
from robustcli.recipes.model import Adam, Constant, Drop, Halving, Published, Recipe, Sgd, Training
from tests.recipes.examples import GOOD


def _message(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        from_text(text, "bad.yaml")
    return caught.value.message


def test_numbers_as_people_write_them() -> None:
    text = GOOD.replace("linf: 0.1", "linf: 2/255").replace("gamma: 0.1", "gamma: 3/255")
    recipe = from_text(text + "training: {optimiser: {name: adam, lr: 1e-4, weight_decay: 5e-4}}", "x.yaml")
    assert recipe.eps["linf"] == 2 / 255
    assert recipe.method.gamma == 3 / 255
    assert recipe.training.optimiser.lr == 1e-4
    assert recipe.training.optimiser.weight_decay == 5e-4


def test_papers_need_no_quotes() -> None:
    text = GOOD + "published:\n- {paper: 000, table: '1', points: first 1000, eps: {linf: 0.1}}\n"
    assert from_text(text, "x.yaml").published[0].paper == "000"


def test_unknown_keys_at_every_level_are_named_with_the_nearest() -> None:
    text = GOOD.replace("summary", "sumary").replace("gamma: 0.1", "gama: 0.1, nearest: {strat: 0.1}")
    text += "training: {optimiser: {name: adam, learning: 1}, epoch: 3}\n"
    lines = _message(text).splitlines()
    assert "bad.yaml: sumary: unknown key (did you mean 'summary'?)" in lines
    assert "bad.yaml: summary: missing" in lines
    assert "bad.yaml: method.gama: unknown key (did you mean 'gamma'?)" in lines
    assert "bad.yaml: method.gamma: missing" in lines
    assert "bad.yaml: method.nearest.strat: unknown key (did you mean 'start'?)" in lines
    assert "bad.yaml: training.epoch: unknown key (did you mean 'epochs'?)" in lines
    assert "bad.yaml: training.optimiser.learning: unknown key (known: lr, name, weight_decay)" in lines
    assert len(lines) == 7


def test_wrong_names_and_radii_are_listed_beside_unknown_keys() -> None:
    text = GOOD.replace("mnist", "minst").replace("lmbd", "lambda").replace("fc1", "fc")
    lines = _message(text).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["method.lmbd", "method.lambda", "dataset", "architecture"]
    lines = _message(GOOD.replace("lmbd", "lambda").replace("linf: 0.1", "linf: 8")).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["method.lmbd", "method.lambda", "eps.linf"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: mmr", "name: mrm", "method.name: unknown name 'mrm' (did you mean 'mmr'?)"),
        ("name: mmr, ", "", "method.name: missing; one of plain, at, kw, mmr, mmr-universal"),
        ("{name: mmr, norm: linf, lmbd: 2, gamma: 0.1}", "[mmr]", "method: must be a mapping"),
        ("norm: linf, lmbd", "norm: l3, lmbd", "method.norm: must be 'l1', 'l2' or 'linf', not 'l3'"),
        ("norm: linf\n", "norm: lin\n", "norm: must be one of l1, l2, linf, union, not 'lin' (did you mean 'linf'?)"),
        ("origin: own", "origin: mine", "origin: must be 'paper-000', 'paper-001'"),
        ("linf: 0.1", "linf: 0", "eps.linf: must be greater than 0, not 0"),
        ("linf: 0.1", "linf: -0.1", "eps.linf: must be greater than 0, not -0.1"),
        ("linf: 0.1", "linf: .nan", "eps.linf: must be greater than 0, not nan"),
        ("linf: 0.1", "linf: .inf", "eps.linf: must be a finite number"),
        ("linf: 0.1", "linf: 2/0", "eps.linf: '2/0' is not a number; write eps as 0.1, 1e-3 or 2/255"),
        ("linf: 0.1", "linf: small", "eps.linf: 'small' is not a number"),
        ("linf: 0.1", "linf: 8", "eps.linf: eps = 8.0 is larger than the input box"),
        ("linf: 0.1", "inf: 0.1", "eps.inf: must be 'l1', 'l2' or 'linf', not 'inf' (did you mean 'linf'?)"),
        ("{linf: 0.1, l2: 0.3}", "{}", "eps: must not be empty"),
        ("lmbd: 2", "lmbd: -2", "method.lmbd: must be greater than or equal to 0, not -2"),
        ("dataset: mnist", "dataset: minst", "dataset: unknown data set 'minst' (did you mean 'mnist'?"),
        ("architecture: fc1", "architecture: cn", "architecture: unknown architecture 'cn' (did you mean 'cnn'?"),
        ("summary: a recipe", "summary: 3", "summary: must be a string, not 3"),
        ("name: example", "name: Example One", "name: string must match pattern"),
    ],
)
def test_one_wrong_value(old: str, new: str, message: str) -> None:
    assert old in GOOD
    found = _message(GOOD.replace(old, new, 1))
    assert f"bad.yaml: {message}" in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("mmr", "must be a mapping of keys to values, not str"),
        ("- a\n- b", "must be a mapping of keys to values, not list"),
        ("name: [", "not valid YAML: line"),
        (GOOD + "norm: l2\n", "key 'norm' is given twice"),
    ],
)
def test_files_that_are_no_recipe(text: str, message: str) -> None:
    assert message in _message(text)


def test_path_and_name(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(GOOD)
    assert load(file) == load(str(file)) == from_text(GOOD, "example.yaml")
    assert find(str(file)) == file

    other = tmp_path / "other.yaml"
    other.write_text(GOOD)
    with pytest.raises(RecipeError, match="name: 'example' differs from the file's name") as caught:
        load(other)
    assert caught.value.hint == "write `name: other`, or rename the file to example.yaml"
    assert read(other).name == "example"

    copy = tmp_path / "recipe.yaml"  # the resolved copy in a run folder
    copy.write_text(dump(load(file)))
    assert load(copy) == load(file)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match=r"no recipe file none\.yaml"):
        load("none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load(latin)


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mnist-fc1-mmr-linf'") as caught:
        load("mnist-fc1-mmr-lnf")
    assert caught.value.exit_code == 2
    assert "mnist-fc1-mmr-linf" in names()


_positive = st.floats(1e-6, 100, allow_nan=False)
_share = st.floats(0, 1)
_norm = st.sampled_from(["l1", "l2", "linf"])
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_at = st.builds(
    Adversarial,
    name=st.just("at"),
    norms=st.lists(_norm, min_size=1, max_size=3, unique=True),
    fraction=_share,
    steps=st.integers(1, 99),
    step_size=st.none() | _positive,
)
_method = st.one_of(
    st.just(Plain(name="plain")),
    _at,
    st.builds(ConvexPolytope, name=st.just("kw"), norm=_norm, boxed=st.booleans()),
    st.builds(
        MaximumMargin,
        name=st.just("mmr"),
        norm=_norm,
        lmbd=_positive,
        gamma=_positive,
        warmup_epochs=st.integers(0, 20),
        adversarial=st.none() | _at,
    ),
    st.builds(
        MaximumMarginUniversal,
        name=st.just("mmr-universal"),
        lmbd_l1=_positive,
        lmbd_linf=_positive,
        gamma_l1=_positive,
        gamma_linf=_positive,
        selection=st.sampled_from(["union", "separate"]),
    ),
)
_training = st.builds(
    Training,
    epochs=st.integers(1, 500),
    batch_size=st.integers(1, 1000),
    drop_last=st.booleans(),
    optimiser=st.builds(Adam, lr=_positive) | st.builds(Sgd, name=st.just("sgd"), lr=_positive, momentum=_share),
    schedule=st.one_of(
        st.builds(Drop, shares=st.lists(_share, max_size=3), factor=_positive),
        st.builds(Halving, name=st.just("every"), every=st.integers(1, 50), factor=_positive),
        st.just(Constant(name="constant")),
    ),
)
_published = st.builds(
    Published,
    paper=st.sampled_from(["000", "001", "003"]),
    table=_text,
    points=_text,
    boxed=st.none() | st.booleans(),
    eps=st.dictionaries(_norm, _positive),
    test_error=st.none() | st.floats(0, 100),
    lower=st.dictionaries(_norm | st.just("union"), st.none() | st.floats(0, 100)),
    notes=st.lists(_text, max_size=2),
)
_recipe = st.builds(
    Recipe,
    name=st.from_regex(r"\A[a-z0-9][a-z0-9.-]{0,20}\Z"),
    summary=_text,
    origin=st.sampled_from(["own", "paper-000"]),
    dataset=st.just("mnist"),
    architecture=st.sampled_from(["cnn", "2x100"]),
    method=_method,
    eps=st.fixed_dictionaries({norm: st.floats(1e-6, 1) for norm in ("l1", "l2", "linf")}),
    norm=_norm | st.just("union"),
    training=_training,
    published=st.lists(_published, max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(_recipe)
def test_dump_then_load_is_the_identity(recipe: Recipe) -> None:
    again = from_text(dump(recipe), "x.yaml")
    assert again == recipe
    assert again.hash == recipe.hash
