"""SVHN's .mat files."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from robustcli.data.readers import svhn
from robustcli.data.specs import spec
from robustcli.errors import DataError
from tests.data.formats import pixels, write_svhn

SVHN = spec("svhn")


def test_round_trip_and_label_ten_is_zero(tmp_path):
    images = pixels(5, 3, 32, 32)
    write_svhn(tmp_path, "test", images, np.array([1, 10, 9, 10, 5], np.uint8))
    files = svhn.find(tmp_path, "test")
    assert svhn.rows(files) == 5
    read, labels = svhn.read(files, "test", SVHN)
    assert np.array_equal(read, images)
    assert labels.tolist() == [1, 0, 9, 0, 5]
    assert svhn.find(tmp_path, "train") is None


def test_damage_is_named(tmp_path):
    path = write_svhn(tmp_path, "test", pixels(20, 3, 32, 32), np.full(20, 3, np.uint8))
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"<html>" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"test_32x32.mat"):
            svhn.read([path], "test", SVHN)


@pytest.mark.parametrize(
    ("variables", "what"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "no variables X and y"),
        ({"X": np.zeros((32, 32, 1, 2), np.uint8), "y": np.ones((2, 1))}, "expected uint8"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [1]], np.uint8)}, "labels outside 1..10"),
    ],
)
def test_wrong_content_is_named(tmp_path, variables, what):
    savemat(tmp_path / "test_32x32.mat", variables)
    with pytest.raises(DataError, match=what):
        svhn.read([tmp_path / "test_32x32.mat"], "test", SVHN)
