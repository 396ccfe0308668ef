"""The YAML files in `recipes/`: they load, and say what the papers say."""

from __future__ import annotations

import math

import pytest

from robustcli.data import specs
from robustcli.networks.architectures import CI_SMALL, NAMED, architecture
from robustcli.recipes.catalogue import choose, method_label, names, recipes_dir
from robustcli.recipes.loading import dump, from_text, load
from robustcli.recipes.methods import MaximumMargin, MaximumMarginUniversal
from robustcli.recipes.model import Distances, Published, Recipe

Values = tuple[float, ...]
FAMILY = {"ibp", "crown-ibp", "mtl-ibp", "cc-ibp", "exp-ibp", "sabr"}
STABLE = {"kw+d", "kw+r", "kw+dr", "crown-ibp+r", "relu-stability"}


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipe]:
    return {name: load(name) for name in names()}


def test_every_file_loads_and_is_named_as_it_says(recipes: dict[str, Recipe]) -> None:
    assert len(recipes) > 100
    assert all(recipe.name == name for name, recipe in recipes.items())
    assert {path.suffix for path in recipes_dir().iterdir()} == {".yaml"}


def test_each_file_starts_with_its_command() -> None:
    for name in names():
        head = (recipes_dir() / f"{name}.yaml").read_text().splitlines()[:2]
        assert head[0].startswith("# ")
        assert head[1] == f"#   robust train --recipe {name}"


def test_resolved_forms_load_back(recipes: dict[str, Recipe]) -> None:
    for recipe in recipes.values():
        assert from_text(dump(recipe), "resolved") == recipe


def test_names_begin_with_the_data_set(recipes: dict[str, Recipe]) -> None:
    assert all(name.startswith(recipe.dataset + "-") for name, recipe in recipes.items())


def test_recipes_of_papers_have_published_figures_and_own_ones_none(recipes: dict[str, Recipe]) -> None:
    for recipe in recipes.values():
        assert bool(recipe.published) == (recipe.origin != "own"), recipe.name


def test_trained_networks_differ(recipes: dict[str, Recipe]) -> None:
    """No two recipes train the same network under two names."""
    hashes: dict[str, str] = {}
    for recipe in recipes.values():
        assert hashes.setdefault(recipe.hash, recipe.name) == recipe.name


def test_radii_are_the_papers(recipes: dict[str, Recipe]) -> None:
    for recipe in recipes.values():
        if recipe.origin in ("paper-000", "paper-001"):
            assert recipe.eps == dict(specs.spec(recipe.dataset).eps), recipe.name


def test_published_figures_obey_their_meaning(recipes: dict[str, Recipe]) -> None:
    """Percentages; lower <= upper, distances too (in 000 KW is above regions); the union at least each norm's."""
    for recipe in recipes.values():
        for row in recipe.published:
            found = row.distances or Distances()
            values = [row.test_error, *row.lower.values(), *row.upper.values(), found.exact]
            assert all(value is None or 0 <= value <= 100 for value in values)
            rising = [
                value for value in (found.region, found.neighbours, found.lower, found.upper) if value is not None
            ]
            assert rising == sorted(rising), recipe.name
            for norm, lower in row.lower.items():
                if lower is not None and row.upper.get(norm) is not None:
                    assert lower <= row.upper[norm], (recipe.name, row.table, norm)
            for bounds in (row.lower, row.upper):
                if bounds.get("union") is not None:
                    assert all(value is None or value <= bounds["union"] for value in bounds.values()), recipe.name


def _row(recipe: Recipe, paper: str, table: str, norm: str) -> Published:
    rows = [row for row in recipe.published if (row.paper, row.table) == (paper, table) and norm in row.eps]
    assert len(rows) == 1
    return rows[0]


# Read off the papers' tables: recipe, norm, test error, lower bound, upper bound.
TABLE_1_OF_000 = [
    ("mnist-fc1-plain", "linf", 1.44, 93.0, 100.0),
    ("mnist-fc1-plain-l2", "l2", 1.73, 9.7, 66.3),
    ("mnist-cnn-plain", "linf", 0.91, 74.0, 100.0),
    ("mnist-cnn-plain", "l2", 0.85, 3.1, 100.0),
    ("mnist-fc1-at-linf", "linf", 0.92, 10.0, 99.0),
    ("mnist-cnn-at-l2", "l2", 0.87, 1.8, 100.0),
    ("mnist-fc1-kw-linf", "linf", 3.19, 10.9, 10.9),
    ("mnist-cnn-kw-linf", "linf", 1.26, 4.4, 4.4),
    ("mnist-cnn-kw-l2", "l2", 1.11, 2.2, 6.0),
    ("mnist-fc1-mmr-linf", "linf", 2.11, 22.5, 24.9),
    ("mnist-cnn-mmr-linf", "linf", 1.65, 6.0, 6.0),
    ("mnist-fc1-mmr-l2", "l2", 2.40, 5.9, 8.8),
    ("mnist-cnn-mmr-l2", "l2", 2.57, 5.8, 11.6),
    ("mnist-fc1-mmr-at-linf", "linf", 2.04, 14.0, 14.1),
    ("mnist-cnn-mmr-at-linf", "linf", 1.19, 3.6, 3.6),
    ("mnist-cnn-mmr-at-l2", "l2", 2.12, 4.6, 9.7),
    ("fashion-mnist-fc1-plain", "linf", 9.49, 100.0, 100.0),
    ("fashion-mnist-cnn-kw-linf", "linf", 21.73, 32.4, 32.4),
    ("fashion-mnist-fc1-mmr-linf", "linf", 18.11, 37.6, 42.0),
    ("fashion-mnist-cnn-mmr-at-linf", "linf", 14.50, 26.6, 30.7),
    ("gtsrb-fc1-plain", "l2", 12.24, 37.5, 44.7),
    ("gtsrb-cnn-at-linf", "linf", 6.84, 29.5, 81.0),
    ("gtsrb-fc1-mmr-linf", "linf", 14.29, 39.8, 39.8),
    ("gtsrb-cnn-mmr-l2", "l2", 14.22, 36.2, 36.9),
    ("cifar10-cnn-plain", "linf", 24.63, 91.0, 100.0),
    ("cifar10-cnn-kw-linf", "linf", 38.91, 46.6, 48.0),
    ("cifar10-cnn-mmr-linf", "linf", 34.61, 57.5, 61.0),
    ("cifar10-cnn-mmr-at-linf", "linf", 35.38, 47.9, 54.2),
    ("cifar10-cnn-mmr-at-l2", "l2", 37.75, 43.9, 53.3),
]


@pytest.mark.parametrize(("name", "norm", "error", "lower", "upper"), TABLE_1_OF_000)
def test_table_1_of_000(
    recipes: dict[str, Recipe], name: str, norm: str, error: float, lower: float, upper: float
) -> None:
    row = _row(recipes[name], "000", "1", norm)
    assert (row.test_error, row.lower, row.upper) == (error, {norm: lower}, {norm: upper})
    assert row.points == ("first 1000" if norm == "linf" else "full test set")
    assert row.boxed is (None if norm == "linf" else False)


def test_table_1_of_000_is_complete(recipes: dict[str, Recipe]) -> None:
    rows = [row for recipe in recipes.values() for row in recipe.published if (row.paper, row.table) == ("000", "1")]
    assert len(rows) == 70  # seven networks x two norms x five methods


# Test error; lower bounds and upper bounds for l1, l2, linf and their union.
TABLE_4_OF_001 = [
    ("mnist-cnn-plain", 0.85, (2.3, None, 88.5, 88.5), (100.0, 100.0, 100.0, 100.0)),
    ("mnist-cnn-at-union", 0.80, (2.1, 1.7, 4.9, 4.9), (100.0, 100.0, 100.0, 100.0)),
    ("mnist-cnn-mmr-universal", 3.04, (6.4, 6.2, 12.4, 12.4), (20.8, 10.4, 12.4, 20.8)),
    ("fashion-mnist-cnn-mmr-universal", 18.57, (25.0, 24.3, 43.5, 43.5), (52.4, 37.4, 44.3, 52.9)),
    ("gtsrb-cnn-mmr-universal", 15.98, (49.7, 34.3, 47.0, 51.6), (51.5, 34.6, 47.0, 52.4)),
    ("cifar10-cnn-mmr-universal", 46.96, (56.4, 51.9, 63.8, 63.8), (63.4, 53.6, 63.8, 64.6)),
    ("cifar10-cnn-kw-l2", 40.24, (47.3, 44.6, 53.6, 54.0), (100.0, 49.3, 54.7, 100.0)),
]


@pytest.mark.parametrize(("name", "error", "lower", "upper"), TABLE_4_OF_001)
def test_table_4_of_001(
    recipes: dict[str, Recipe], name: str, error: float, lower: tuple[float, ...], upper: tuple[float, ...]
) -> None:
    row = _row(recipes[name], "001", "4", "l1")
    norms = ("l1", "l2", "linf", "union")
    assert (row.test_error, row.points) == (error, "first 1000")
    assert row.lower == dict(zip(norms, lower, strict=True))
    assert row.upper == dict(zip(norms, upper, strict=True))


@pytest.mark.parametrize(
    ("name", "error", "lower", "upper"),
    [
        ("mnist-cnn-kw-linf-003", 1.80, 4.11, 5.82),
        ("mnist-cnn-plain-003", 1.07, 81.68, 100.0),
        ("fashion-mnist-cnn-kw-linf", 21.73, 31.63, 34.53),
        ("svhn-cnn-kw-linf", 20.38, 33.74, 40.67),
        ("har-fc500-kw-linf", 7.80, 21.52, 21.90),
    ],
)
def test_table_1_of_003(recipes: dict[str, Recipe], name: str, error: float, lower: float, upper: float) -> None:
    row = _row(recipes[name], "003", "1", "linf")
    assert (row.test_error, row.lower["linf"], row.upper["linf"]) == (error, lower, upper)
    assert (row.points, row.boxed) == ("full test set", False)


@pytest.mark.parametrize(
    ("name", "gap", "distance", "error", "lower", "upper"),
    [
        ("mnist-2x100-kw-dr-linf", 2e-3, 1, 4.73, 10.9, 13.32),
        ("mnist-cnn-kw-dr-linf", 5e-3, 0.5, 1.09, 2.2, 3.65),
        ("mnist-2x100-kw-dr-linf-0.3", 5e-3, 5e-3, 26.1, 44.3, 56.05),
        ("mnist-cnn-kw-dr-linf-0.3", 5e-3, 0.5, 7.28, 13.7, 29.65),
        ("mnist-cnn-kw-proj-r-linf", 0, 0.5, 1.51, 3.4, 4.32),
        ("cifar10-large-kw-proj-dr-linf-8", 5e-3, 0.5, 59.82, 68.5, 73.74),
        ("mnist-xlarge-crown-ibp-r-linf-0.3", 0, 0.5, 1.76, None, 6.64),
        ("cifar10-xlarge-crown-ibp-r-linf-8", 0, 0.5, 53.78, None, 66.64),
    ],
)
def test_regularised_rows_of_table_1_of_004(
    recipes: dict[str, Recipe],
    name: str,
    gap: float,
    distance: float,
    error: float,
    lower: float | None,
    upper: float,
) -> None:
    recipe, row = recipes[name], _row(recipes[name], "004", "1", "linf")
    weights = recipe.method.tightness
    assert (weights.gap, weights.distance, weights.warmup_epochs) == (gap, distance, 20)
    assert (row.test_error, row.lower.get("linf"), row.upper["linf"]) == (error, lower, upper)
    assert method_label(recipe) == recipe.method.name + ("+dr" if gap else "+r")


def test_small_models_of_004_come_in_pairs(recipes: dict[str, Recipe]) -> None:
    """Table 2: ten networks, with and without r."""
    rows = [
        recipe for recipe in recipes.values() if any((row.paper, row.table) == ("004", "2") for row in recipe.published)
    ]
    labels = [method_label(recipe) for recipe in rows]
    assert (labels.count("crown-ibp"), labels.count("crown-ibp+r")) == (10, 10)
    networks = {architecture(recipe.architecture).name for recipe in rows}
    assert networks == {item.name for item in NAMED.values() if item.paper == CI_SMALL}


# Names of the released models: data set, network, norm; lambda, gamma, learning rate of MMR, then of MMR+AT.
RELEASED = [
    ("mnist", "fc1", "linf", (2.0, 0.1, 1e-3), (1.0, 0.1, 1e-3)),
    ("mnist", "cnn", "linf", (1.0, 0.2, 1e-3), (0.5, 0.2, 1e-3)),
    ("fashion-mnist", "fc1", "linf", (6.0, 0.2, 1e-3), (1.0, 0.15, 1e-3)),
    ("fashion-mnist", "cnn", "linf", (4.0, 0.2, 1e-3), (2.0, 0.15, 1e-3)),
    ("gtsrb", "fc1", "linf", (10.0, 8 / 255, 1e-3), (4.0, 6 / 255, 1e-3)),
    ("gtsrb", "cnn", "linf", (4.0, 6 / 255, 1e-3), (1.0, 6 / 255, 1e-3)),
    ("cifar10", "cnn", "linf", (1.0, 3 / 255, 1e-3), (0.1, 3 / 255, 1e-3)),
    ("mnist", "fc1", "l2", (1.5, 0.6, 1e-4), (0.5, 0.45, 5e-5)),
    ("mnist", "cnn", "l2", (3.0, 0.45, 1e-4), (6.0, 0.45, 5e-5)),
    ("fashion-mnist", "fc1", "l2", (10.0, 0.45, 1e-4), (0.5, 0.45, 5e-5)),
    ("fashion-mnist", "cnn", "l2", (3.0, 0.45, 1e-4), (1.5, 0.45, 5e-5)),
    ("gtsrb", "fc1", "l2", (16.0, 0.4, 1e-3), (1.0, 0.3, 1e-3)),
    ("gtsrb", "cnn", "l2", (10.0, 0.3, 1e-3), (6.0, 0.3, 1e-3)),
    ("cifar10", "cnn", "l2", (1.5, 0.2, 1e-3), (0.5, 0.15, 1e-3)),
]


@pytest.mark.parametrize(("dataset", "network", "norm", "alone", "attacked"), RELEASED)
def test_mmr_hyper_parameters(
    recipes: dict[str, Recipe], dataset: str, network: str, norm: str, alone: Values, attacked: Values
) -> None:
    for kind, values in (("mmr", alone), ("mmr-at", attacked)):
        recipe = recipes[f"{dataset}-{network}-{kind}-{norm}"]
        method = recipe.method
        assert isinstance(method, MaximumMargin)
        assert (method.lmbd, method.gamma, recipe.training.optimiser.lr) == values
        assert (method.norm, method.warmup_epochs, method.boundary) == (norm, 10, True)
        assert (method.nearest.start, method.nearest.end) == (0.10, 0.02)
        assert method.conventions.stabiliser == (1e-5 if network == "cnn" else 0)
        assert method.conventions.decision_divisor == "classes"
        assert (recipe.training.epochs, recipe.training.batch_size) == (100, 128)
        assert recipe.training.augmentation == ("crop-mirror-colour" if dataset == "cifar10" else "none")
        assert (method.adversarial is not None) == (kind == "mmr-at")
        if method.adversarial is not None:
            steps = 40 if "mnist" in dataset else 7
            assert (method.adversarial.norms, method.adversarial.fraction) == ([norm], 0.5)
            assert (method.adversarial.steps, method.adversarial.step_size) == (steps, None)


def test_mmr_universal_hyper_parameters(recipes: dict[str, Recipe]) -> None:
    for dataset, values in {
        "mnist": (3, 12, 1.0, 0.175, 5e-4),
        "fashion-mnist": (3, 40, 1.0, 0.15, 5e-4),
        "gtsrb": (3, 12, 6.0, 6 / 255, 1e-3),
        "cifar10": (1, 6, 6.0, 6 / 255, 1e-3),
    }.items():
        recipe = recipes[f"{dataset}-cnn-mmr-universal"]
        method = recipe.method
        assert isinstance(method, MaximumMarginUniversal)
        found = (method.lmbd_l1, method.lmbd_linf, method.gamma_l1, method.gamma_linf, recipe.training.optimiser.lr)
        assert found == values
        assert (method.nearest.start, method.nearest.end, method.selection) == (0.20, 0.05, "union")


def test_catalogue_filters(recipes: dict[str, Recipe]) -> None:
    everything = list(recipes.values())
    assert choose(everything) == everything
    chosen = choose(everything, dataset="mnist", method="mmr+at", norm="linf")
    assert [recipe.name for recipe in chosen] == ["mnist-cnn-mmr-at-linf", "mnist-fc1-mmr-at-linf"]
    assert choose(everything, dataset="har", method="mmr") == []
    labels = {method_label(recipe) for recipe in everything}
    assert (
        labels
        == {"plain", "at", "kw", "colt", "mmr", "mmr+at", "mmr-dd", "mmr-universal", "cross-lipschitz"}
        | FAMILY
        | STABLE
    )
    assert len(choose(everything, method="mmr-dd")) == 6
    assert [recipe.name for recipe in choose(everything, method="mmr", norm="l1")] == ["digits-fc-mmr-l1"]


def test_digits_radii(recipes: dict[str, Recipe]) -> None:
    own = [recipe for recipe in recipes.values() if recipe.dataset == "digits"]
    assert {"digits-fc-plain", "digits-fc-kw-linf", "digits-fc-mmr-linf", "digits-fc-mmr-universal"} <= {
        recipe.name for recipe in own
    }
    assert all(math.isclose(recipe.eps["linf"], 0.1) for recipe in own)
