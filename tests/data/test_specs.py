"""The declarations hold together and carry the papers' radii."""

from __future__ import annotations

import subprocess
import sys

import pytest

from robustcli.data.sources import SOURCES
from robustcli.data.specs import names, spec
from robustcli.errors import UnknownNameError, UsageError
from robustcli.norms import check_eps, exponent


@pytest.mark.parametrize("name", names())
def test_declarations_hold_together(name):
    declared = spec(name)
    assert declared.class_names == () or len(declared.class_names) == declared.classes
    assert set(declared.rows) == {"train", "test"}
    for norm, eps in declared.eps.items():
        assert check_eps(eps, exponent(norm), declared.dimension, declared.box) == eps
    assert declared.eps["linf"] < declared.eps["l2"] < declared.eps["l1"]
    for moments in (declared.mean, declared.std):
        assert moments is None or len(moments) == declared.input_shape[0]


@pytest.mark.parametrize(
    ("name", "radii"),
    [
        ("mnist", (1, 0.3, 0.1)),
        ("fashion-mnist", (1, 0.3, 0.1)),
        ("gtsrb", (3, 0.2, 4 / 255)),
        ("cifar10", (2, 0.1, 2 / 255)),
    ],
)
def test_radii_of_paper_001(name, radii):
    declared = spec(name)
    assert tuple(declared.eps[norm] for norm in ("l1", "l2", "linf")) == radii
    assert declared.own_eps == ()


def test_features_and_the_toy_are_unboxed():
    assert [name for name in names() if spec(name).box is None] == ["har", "toy-2d"]


def test_unknown_name_and_norm():
    with pytest.raises(UnknownNameError, match="mnist"):
        spec("mnits")
    with pytest.raises(UsageError, match="l3"):
        spec("mnist").eps["l3"]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_file_is_pinned(name):
    for bundle in SOURCES[name].bundles:
        for file in bundle:
            algorithm, digest = file.checksum.split(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[algorithm]
            assert file.size > 0
            assert file.urls


def test_no_torch_at_import():
    code = "import sys, robustcli.data.specs, robustcli.data.sources, robustcli.cli.data; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
