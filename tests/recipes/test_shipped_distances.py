"""Average l2 distances of 000: Tables 2 to 6 as the recipes hold them, and the settings of their networks."""

from __future__ import annotations

import pytest

from robustcli.recipes.catalogue import names
from robustcli.recipes.loading import load
from robustcli.recipes.methods import MaximumMargin
from robustcli.recipes.model import Distances, Recipe


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipe]:
    return {name: load(name) for name in names()}


# Average l2 distances of 000 by network (FC1, FC10, CNN): test error, lower, upper (Table 5; CIFAR-10: Table 6).
TABLES_5_AND_6_OF_000 = {
    ("mnist", "plain"): ((1.59, 0.34, 0.98), (1.81, 0.13, 0.70), (0.97, 0.04, 1.03)),
    ("mnist", "at"): ((1.29, 0.25, 1.23), (0.93, 0.14, 1.59), (0.86, 0.14, 1.67)),
    ("mnist", "kw"): ((1.37, 0.70, 1.75), (1.69, 0.75, 1.74), (1.04, 0.32, 1.84)),
    ("mnist", "mmr"): ((1.51, 0.69, 1.69), (1.87, 0.48, 1.48), (1.17, 0.38, 1.70)),
    ("mnist", "mmr-at"): ((1.59, 0.70, 1.70), (1.35, 0.40, 1.60), (1.14, 0.38, 1.86)),
    ("gtsrb", "plain"): ((12.24, 0.33, 0.57), (11.25, 0.08, 0.48), (6.73, 0.06, 0.43)),
    ("gtsrb", "at"): ((13.55, 0.34, 0.66), (13.01, 0.10, 0.56), (8.12, 0.06, 0.53)),
    ("gtsrb", "kw"): ((13.06, 0.35, 0.63), (13.56, 0.16, 0.52), (8.44, 0.11, 0.52)),
    ("gtsrb", "mmr"): ((11.15, 0.69, 0.69), (12.82, 0.64, 0.67), (7.40, 0.09, 0.59)),
    ("gtsrb", "mmr-at"): ((11.72, 0.72, 0.72), (13.36, 0.64, 0.66), (10.50, 0.11, 0.62)),
    ("fashion-mnist", "plain"): ((9.61, 0.18, 0.53), (10.53, 0.05, 0.44), (8.86, 0.03, 0.32)),
    ("fashion-mnist", "at"): ((9.89, 0.11, 1.00), (9.89, 0.11, 1.00), (8.77, 0.07, 0.80)),
    ("fashion-mnist", "kw"): ((9.95, 0.46, 1.11), (11.42, 0.47, 1.22), (10.37, 0.17, 0.96)),
    ("fashion-mnist", "mmr"): ((10.22, 0.50, 0.85), (11.73, 0.68, 1.18), (10.30, 0.17, 0.88)),
    ("fashion-mnist", "mmr-at"): ((10.94, 0.66, 1.45), (11.39, 0.67, 1.24), (10.48, 0.21, 1.14)),
    ("cifar10", "plain"): (None, None, (25.98, 0.02, 0.16)),
    ("cifar10", "at"): (None, None, (25.36, 0.04, 0.42)),
    ("cifar10", "kw"): (None, None, (41.52, 0.16, 0.66)),
    ("cifar10", "mmr"): (None, None, (41.86, 0.16, 0.39)),
    ("cifar10", "mmr-at"): (None, None, (41.11, 0.13, 0.57)),
}
# Table 3: share of exact distances, by how many percent they exceed KW's bound; the share for plain training.
TABLE_3_OF_000 = {
    ("mnist", "fc1"): (0.20, 14.11, 0.02),
    ("mnist", "fc10"): (0.06, None, 0.02),
    ("mnist", "cnn"): (0.00, None, 0.00),
    ("gtsrb", "fc1"): (99.97, 0.59, 1.12),
    ("gtsrb", "fc10"): (94.86, 0.66, 0.14),
    ("gtsrb", "cnn"): (0.00, None, 0.00),
    ("fashion-mnist", "fc1"): (11.22, 6.53, 0.37),
    ("fashion-mnist", "fc10"): (9.90, 7.27, 0.04),
    ("fashion-mnist", "cnn"): (0.09, None, 0.00),
}
# Table 4: lower bounds of Theorem 3.1 and with neighbouring regions, MMR then MMR+AT.
TABLE_4_OF_000 = {
    ("mnist", "fc1"): ((0.22, 0.29), (0.25, 0.33)),
    ("mnist", "fc10"): ((0.31, 0.33), (0.21, 0.26)),
    ("gtsrb", "fc1"): ((0.69, 0.69), (0.72, 0.72)),
    ("gtsrb", "fc10"): ((0.63, 0.63), (0.63, 0.63)),
    ("fashion-mnist", "fc1"): ((0.30, 0.41), (0.33, 0.42)),
    ("fashion-mnist", "fc10"): ((0.56, 0.64), (0.53, 0.60)),
}
# Table 2: MMR-dD alone (its MMR-full columns repeat Table 5).
TABLE_2_OF_000 = {
    ("mnist", "fc1"): (0.93, 0.35, 1.69),
    ("mnist", "fc10"): (1.21, 0.20, 1.62),
    ("gtsrb", "fc1"): (12.09, 0.48, 0.63),
    ("gtsrb", "fc10"): (12.41, 0.12, 0.48),
    ("fashion-mnist", "fc1"): (9.83, 0.31, 1.30),
    ("fashion-mnist", "fc10"): (10.32, 0.13, 1.15),
}


def _distances(recipe: Recipe) -> tuple[float | None, Distances]:
    """Test error and distances of the one published row that has them."""
    ((error, found),) = [(row.test_error, row.distances) for row in recipe.published if row.distances is not None]
    return error, found


@pytest.mark.parametrize(("dataset", "method"), TABLES_5_AND_6_OF_000)
def test_distances_of_000(recipes: dict[str, Recipe], dataset: str, method: str) -> None:
    """Tables 3 to 6, and the full column of Table 2."""
    rows = TABLES_5_AND_6_OF_000[dataset, method]
    for network, row in zip(("fc1", "fc10", "cnn"), rows, strict=True):
        if row is None:
            continue
        light = "-light" if method.startswith("mmr") and network != "fc10" and dataset != "cifar10" else ""
        name = f"{dataset}-{network}-{method}" + ("" if method == "plain" else f"-l2{light}")
        exact, over, plain = TABLE_3_OF_000.get((dataset, network), (None, None, None))
        regions = TABLE_4_OF_000.get((dataset, network), ((None, None), (None, None)))
        wanted = {
            "mmr": (exact, over, *regions[0]),
            "mmr-at": (None, None, *regions[1]),
            "plain": (plain, None, None, None),
        }.get(method, (None, None, None, None))
        error, found = _distances(recipes[name])
        assert (error, found.lower, found.upper) == row, name
        assert (found.exact, found.exact_over_lower, found.region, found.neighbours) == wanted, name
        assert found.norm == "l2"


@pytest.mark.parametrize(("dataset", "network"), TABLE_2_OF_000)
def test_the_ablation_of_000(recipes: dict[str, Recipe], dataset: str, network: str) -> None:
    """MMR-dD: the published figures, and the full method's settings without the boundary term."""
    recipe = recipes[f"{dataset}-{network}-mmr-dd-l2"]
    full = recipes[f"{dataset}-{network}-mmr-l2" + ("-light" if network == "fc1" else "")]
    assert isinstance(full.method, MaximumMargin)
    error, found = _distances(recipe)
    assert (error, found.lower, found.upper) == TABLE_2_OF_000[dataset, network]
    assert recipe.method == full.method.model_copy(update={"boundary": False})
    assert (recipe.training, recipe.eps) == (full.training, full.eps)


def test_lighter_networks_have_a_quarter_of_lambda(recipes: dict[str, Recipe]) -> None:
    """Our choice for the networks of Tables 2-5, stated in the recipes: all else is that of Table 1's networks."""
    light = [recipe for recipe in recipes.values() if recipe.name.endswith("-light")]
    assert len(light) == 12
    for recipe in light:
        heavy = recipes[recipe.name.removesuffix("-light")]
        assert isinstance(heavy.method, MaximumMargin)
        assert recipe.method == heavy.method.model_copy(update={"lmbd": heavy.method.lmbd / 4})
        assert (recipe.training, recipe.eps, recipe.architecture) == (heavy.training, heavy.eps, heavy.architecture)
        assert "our choice" in recipe.summary
