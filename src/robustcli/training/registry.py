"""The training methods by name. Each stands in a file of its own, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from robustcli.errors import UnknownNameError
from robustcli.networks.network import Network
from robustcli.recipes.model import Recipe
from robustcli.training.objective import Objective

METHODS = {
    "plain": "robustcli.training.plain",
    "at": "robustcli.training.adversarial",
    "kw": "robustcli.training.kw",
    "mmr": "robustcli.training.mmr",
    "mmr-universal": "robustcli.training.mmr_universal",
    "cross-lipschitz": "robustcli.training.cross_lipschitz",
    "ibp": "robustcli.training.ibp",
    "crown-ibp": "robustcli.training.ibp",
    "mtl-ibp": "robustcli.training.ibp",
    "cc-ibp": "robustcli.training.ibp",
    "exp-ibp": "robustcli.training.ibp",
    "sabr": "robustcli.training.ibp",
    "relu-stability": "robustcli.training.relu_stability",
    "colt": "robustcli.training.colt.objective",
}


def objective(recipe: Recipe, network: Network, seed: int) -> Objective:
    """The objective of the recipe's method: `make(settings, recipe, network, seed)` of its file.

    Raises:
        UnknownNameError: for a method that has no file here.
    """
    name = recipe.method.name
    if name not in METHODS:
        raise UnknownNameError("training method", name, METHODS)
    made: Objective = import_module(METHODS[name]).make(recipe.method, recipe, network, seed)
    return made
