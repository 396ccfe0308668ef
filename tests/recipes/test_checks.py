"""Contradictions between the parts of a recipe, and between recipe and data set."""

from __future__ import annotations

import pytest

from robustcli.errors import RecipeError
from robustcli.recipes.loading import from_text
from tests.recipes.examples import GOOD

KW = "method={name: kw, norm: linf, "


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["norm=l1"], "norm: l1 has no radius: eps has linf, l2"),
        (["norm=union", "eps={linf: 0.1}"], "norm: union of norms, but eps has linf only"),
        (["method.norm=l1"], "method.norm: l1 has no radius"),
        (["method={name: at, norms: [linf, l1]}"], "method.norms: l1 has no radius"),
        (["method.adversarial={name: at, norms: [l1]}"], "method.adversarial.norms: l1 has no radius"),
        ([KW + "start_eps: 0.01}"], "start_eps and ramp_epochs go together"),
        ([KW + "ramp_epochs: 5}"], "start_eps and ramp_epochs go together"),
        (
            ["method={name: kw, norm: l1, projections: 50}", "eps={l1: 1}", "norm=l1"],
            "method.projections: there are none",
        ),
        ([KW + "start_eps: 0.2, ramp_epochs: 5}"], "method.start_eps: 0.2 is above eps.linf = 0.1"),
        ([KW + "start_eps: 0.01, ramp_epochs: 101}"], "method.ramp_epochs: 101 exceeds training.epochs = 100"),
        (
            [KW + "tightness: {gap: 1}}", "training.epochs=19"],
            "tightness.warmup_epochs: 20 exceeds training.epochs = 19",
        ),
        ([KW + "}", "training.batch_norm=true"], "training.batch_norm: kw does not know it; plain, at, "),
        (["training.batch_norm=true"], "training.batch_norm: mmr does not know it"),
        (
            ["method={name: cross-lipschitz, lmbd: 1}", "training.batch_norm=true"],
            "batch_norm: cross-lipschitz does not",
        ),
        (["dataset=har", KW + "boxed: true}"], "method.boxed: har has no input box"),
        (["dataset=har", "normalise=dataset"], "normalise: har has no mean and deviation"),
        (["dataset=har", "training.augmentation=crop-mirror"], "training.augmentation: har holds no images"),
        (["training={augmentation: crop-mirror, padding: 28}"], "training.padding: 28 leaves crops without image"),
        (["dataset=har", "architecture=cnn"], "architecture: "),
        (["eps.l2=29"], "eps.l2: eps = 29.0 is larger than the input box"),
    ],
)
def test_contradiction(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_text(GOOD, "x.yaml", overrides)
    assert message in caught.value.message


def test_every_contradiction_is_listed() -> None:
    with pytest.raises(RecipeError) as caught:
        from_text(GOOD, "x.yaml", ["norm=l1", "method.norm=l1", "eps.linf=2", "architecture=nix", "dataset=har"])
    assert len(caught.value.message.splitlines()) == 3  # har has no box: eps may be any
    with pytest.raises(RecipeError) as caught:
        from_text(GOOD, "x.yaml", ["norm=l1", "method.norm=l1", "eps.linf=2", "architecture=nix"])
    assert len(caught.value.message.splitlines()) == 4


def test_what_is_left_to_later() -> None:
    """The user's own arrays are not read to check a recipe."""
    assert from_text(GOOD, "x.yaml", ["dataset=npz:/nowhere"]).dataset == "npz:/nowhere"
