"""The recipe hash: what counts, what does not, and that defaults never change their value."""

from __future__ import annotations

import json

import pytest

from robustcli.recipes.loading import load
from robustcli.recipes.methods import (
    Colt,
    ConvexPolytope,
    CrownIntervals,
    Expressive,
    IntervalPropagation,
    MaximumMargin,
    MaximumMarginUniversal,
    SmallBox,
    Tightening,
)
from robustcli.recipes.model import Training


def test_only_what_determines_the_network_counts() -> None:
    recipe = load("digits-fc-kw-linf")
    assert recipe.model_copy(update={"summary": "other words"}).hash == recipe.hash
    assert load("digits-fc-kw-linf", ["training.epochs=31"]).hash != recipe.hash
    assert load("digits-fc-kw-linf", ["eps.linf=0.11"]).hash != recipe.hash


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("mnist-fc1-mmr-linf", "0fced3048624cf4c"),
        ("mnist-cnn-mmr-universal", "cc50b53c31b98142"),
        ("mnist-fc10-mmr-at-l2", "b001f081eda1df77"),
        ("cifar10-cnn-mmr-at-linf", "947563c180d2f48b"),
        ("mnist-cnn-kw-linf-003", "d7b59edc70ecf5d2"),
        ("gtsrb-cnn-at-union", "c6813706b16bfac7"),
    ],
)
def test_keys_that_came_later_keep_the_hashes_of_older_runs(name: str, beginning: str) -> None:
    assert load(name).hash.startswith(beginning)


@pytest.mark.parametrize(
    "change", ["method.boundary=false", "training.clip_norm=1", "training.padding=3", "training.averaging={}"]
)
def test_new_keys_count_once_they_differ_from_the_default(change: str) -> None:
    assert load("cifar10-cnn-mmr-linf", [change]).hash != load("cifar10-cnn-mmr-linf").hash


def test_a_default_written_out_is_the_same_recipe() -> None:
    assert load("digits-fc-kw-linf", ["training.optimiser.weight_decay=0"]).hash == load("digits-fc-kw-linf").hash


def test_defaults_keep_their_values() -> None:
    """Values equal to the default are not hashed: a changed default would silently change what a hash stands for."""
    training = json.loads(Training().model_dump_json())
    assert training == {
        "epochs": 100,
        "batch_size": 128,
        "drop_last": True,
        "optimiser": {"name": "adam", "lr": 0.001, "weight_decay": 0.0},
        "schedule": {"name": "drop", "shares": [0.9], "factor": 0.1},
        "augmentation": "none",
        "padding": 2,
        "affine": {"degrees": 5.0, "shear": 0.1, "contrast": 1.0},
        "clip_norm": None,
        "initialisation": "truncated-normal",
        "batch_norm": False,
        "averaging": None,
        "held_out": 0,
    }
    conventions = {"decision_divisor": "classes", "stabiliser": 0.0, "tie_noise": 1e-5}
    conventions |= {"first_layer": "inside", "first_pass": "float32"}
    mmr = MaximumMargin(name="mmr", norm="linf", lmbd=1, gamma=1).model_dump()
    assert mmr["conventions"] == conventions
    assert (mmr["warmup_epochs"], mmr["nearest"], mmr["boundary"]) == (10, {"start": 0.1, "end": 0.02}, True)
    both = MaximumMarginUniversal(name="mmr-universal", lmbd_l1=1, lmbd_linf=1, gamma_l1=1, gamma_linf=1).model_dump()
    assert (both["selection"], both["nearest"]) == ("union", {"start": 0.2, "end": 0.05})
    kw = ConvexPolytope(name="kw", norm="linf").model_dump()
    ramp = {"start_eps": None, "ramp_epochs": 0}
    assert kw == {"name": "kw", "norm": "linf", "boxed": False, "projections": None, "tightness": None} | ramp
    assert Tightening().model_dump() == {"gap": 0.0, "distance": 0.0, "warmup_epochs": 20}


def test_defaults_of_the_ibp_family_keep_their_values() -> None:
    ramp, none = {"name": "linear", "start": 0, "epochs": 0}, {"start": 0.0, "end": 0.0}
    shared = {"norms": ["linf"], "union": "hull", "boxed": ["linf"], "eps_factor": 1.0, "ramp": ramp}
    shared |= {"kappa": none, "beta": none, "stability": 0.0, "l1": 0.0}
    assert IntervalPropagation(name="ibp", norms=["linf"]).model_dump() == shared | {"name": "ibp"}
    crown = CrownIntervals(name="crown-ibp", norms=["linf"]).model_dump()
    assert crown == shared | {"name": "crown-ibp", "beta": {"start": 1.0, "end": 0.0}, "tightness": None}
    mixture = Expressive(name="mtl-ibp", norms=["linf"], alpha=0.5).model_dump()
    attack = {"steps": 1, "step_size": 10.0, "radius": 1.0}
    assert mixture == shared | {"name": "mtl-ibp", "alpha": 0.5, "attack": attack, "bound_radius": {}}
    small = SmallBox(name="sabr", norms=["linf"], ratio=0.5).model_dump()
    assert small == shared | {"name": "sabr", "ratio": 0.5, "attack": {"steps": 8, "step_size": 0.5, "radius": 1.0}}


def test_defaults_of_colt_keep_their_values() -> None:
    found = Colt(name="colt", stages=3).model_dump()
    expected = {"name": "colt", "norm": "linf", "stages": 3, "mix_epochs": 60, "eps_factor": 1.05, "eps_growth": 1.1}
    expected |= {"rate_decay": 1.0, "l1": 1e-5, "stability": 0.005, "stability_growth": 1.5}
    expected |= {"bounds": "projected", "projections": 50, "attack": {"steps": 8, "step_size": 0.25}}
    assert found == expected
