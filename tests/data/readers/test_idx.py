"""idx files: what is written comes back; every damage is named."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from robustcli.data.readers import idx
from robustcli.data.specs import spec
from robustcli.errors import DataError
from tests.data.formats import idx_bytes, pixels, write_idx

MNIST = spec("mnist")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_round_trip(tmp_path, zipped, split):
    images, labels = pixels(7, 28, 28), np.arange(7)
    write_idx(tmp_path, split, images, labels, zipped)
    files = idx.find(tmp_path, split)
    assert idx.rows(files) == 7
    read, read_labels = idx.read(files, split, MNIST)
    assert read.shape == (7, 1, 28, 28)
    assert np.array_equal(read[:, 0], images)
    assert np.array_equal(read_labels, labels)


def test_absent_is_none_and_half_is_an_error(tmp_path):
    assert idx.find(tmp_path, "train") is None
    write_idx(tmp_path, "train", pixels(2, 28, 28), np.zeros(2))[1].unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz is missing"):
        idx.find(tmp_path, "train")


GOOD = idx_bytes(pixels(3, 28, 28))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "wrong magic number"),
        (b"\x89PNG" + GOOD[4:], "wrong magic number 89504e47"),
        (idx_bytes(np.zeros(3)), "wrong magic number 00000801"),
        (GOOD[:9], "ends inside the header"),
        (GOOD[:-1], r"declares 2352 bytes \(3 rows\), the file holds only 2351"),
        (GOOD + b"x", "holds more"),
    ],
)
def test_damage_is_named(tmp_path, content, what):
    paths = write_idx(tmp_path, "train", pixels(3, 28, 28), np.zeros(3), zipped=False)
    paths[0].write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        idx.read(paths, "train", MNIST)
    assert "train-images-idx3-ubyte" in str(caught.value)


def test_torn_gzip_is_named(tmp_path):
    paths = write_idx(tmp_path, "train", pixels(50, 28, 28), np.zeros(50))
    whole = paths[0].read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(flipped), b"<html>not found</html>"):
        paths[0].write_bytes(content)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz"):
            idx.read(paths, "train", MNIST)


def test_labels_must_match_images(tmp_path):
    paths = write_idx(tmp_path, "test", pixels(4, 28, 28), np.zeros(4))
    paths[1].write_bytes(gzip.compress(idx_bytes(np.zeros(3))))
    with pytest.raises(DataError, match="3 labels for 4 images"):
        idx.rows(paths)
