"""From names to arrays: scales, hashes, partial sets, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcli.data.checking import CONTENT
from robustcli.data.datasets import load
from robustcli.data.specs import spec
from robustcli.errors import DataError, UnknownNameError
from tests.data.formats import pixels, write_cifar, write_idx


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No data but what the test writes under tmp_path."""
    monkeypatch.setenv("ROBUST_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("robustcli.data.sources.cache_folder", lambda: tmp_path / "cache")


def test_digits_is_always_here():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    assert train.partial is None
    assert train.images.shape == (1297, 1, 8, 8)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 16
    assert train.labels[:10].tolist() == list(range(10))
    assert set(np.bincount(test.labels)) <= {46, 49, 50, 51}
    assert np.allclose(train.points(slice(None)).mean(), spec("digits").mean, atol=1e-4)
    assert (train.hash, test.hash) == (CONTENT["digits", "train"], CONTENT["digits", "test"])


def test_first_digit_of_uci():
    """The first line of optdigits.tes, as published."""
    row = [0, 0, 5, 13, 9, 1, 0, 0]
    assert load("digits", "train").images[0, 0, 0].tolist() == row


def test_toy_points_are_those_of_their_generators():
    """Farther than 0.32 apart in l1, as drawn; balls of the radius 0.08 in linf do not meet."""
    random, points = np.random.RandomState(3), []
    while len(points) < 12:
        point = random.uniform(size=2)
        if all(np.abs(point - other).sum() > 0.32 for other in points):
            points.append(point)
    toy = load("toy-2d", "train")
    assert np.array_equal(toy.images, np.array(points, np.float32))
    labels = (torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.5).long()
    assert toy.labels.tolist() == labels.tolist()
    apart = np.abs(toy.images[:, None] - toy.images).max(2) + np.eye(12)
    assert apart.min() > 2 * spec("toy-2d").eps["linf"]
    assert toy.hash == load("toy-2d", "test").hash == CONTENT["toy-2d", "train"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_scaled_in_the_requested_type(dtype):
    split = load("digits", "test")
    points = split.points([3, 1], dtype=dtype)
    assert points.dtype == dtype
    assert torch.equal(points, torch.tensor(split.images[[3, 1]], dtype=dtype) / 16)
    assert points.min() >= 0
    assert points.max() <= 1


def test_rows_may_be_asked_for_in_any_way():
    split = load("digits", "test")
    expected = split.points([0, 1, 2])
    for index in (slice(0, 3), np.arange(3), torch.arange(3), range(3)):
        assert torch.equal(split.points(index), expected)
        assert split.labels_tensor(index).tolist() == split.labels[:3].tolist()
    assert split.points(1).shape == (1, 1, 8, 8)
    assert split.labels_tensor(slice(None)).dtype == torch.int64


def test_points_are_copies(tmp_path):
    np.savez(tmp_path / "test.npz", images=np.ones((2, 3)), labels=np.arange(2))
    split = load(f"npz:{tmp_path}", "test")
    split.points(slice(None)).zero_()
    assert split.images.min() == 1


def test_partial_sets_are_refused_unless_named(tmp_path):
    write_idx(tmp_path / "mnist", "test", pixels(5, 28, 28), np.arange(5))
    with pytest.raises(DataError, match=r"5 of 10000 test rows[\s\S]*partial: true[\s\S]*--set partial=true"):
        load("mnist", "test")
    split = load("mnist", "test", partial=True)
    assert split.partial == "5 of 10000 test rows"
    assert split.points([0]).shape == (1, 1, 28, 28)
    assert split.points(slice(None)).max() <= 1


def test_more_rows_than_official_are_refused(tmp_path):
    (tmp_path / "har").mkdir()
    np.savez(tmp_path / "har/test.npz", images=np.zeros((2948, 561)), labels=np.zeros(2948, int))
    with pytest.raises(DataError, match="2948 rows, the official test split has 2947"):
        load("har", "test")


def test_missing_data_says_which_files_to_put_where(tmp_path):
    with pytest.raises(DataError) as caught:
        load("mnist", "train")
    text = str(caught.value)
    assert "robust data fetch mnist" in text
    assert str(tmp_path / "mnist") in text
    assert "train-images-idx3-ubyte.gz  (9.9 MB)" in text
    assert caught.value.exit_code == 3


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="cifar10"):
        load("cifar", "test")
    with pytest.raises(UnknownNameError, match="split"):
        load("mnist", "validation")


def test_same_pixels_hash_alike_from_any_format(tmp_path):
    images, labels = pixels(10, 3, 32, 32), np.arange(10)
    write_cifar(tmp_path / "official/cifar10", images, labels)
    (tmp_path / "arrays/cifar10").mkdir(parents=True)
    np.savez(tmp_path / "arrays/cifar10/test.npz", images=images.transpose(0, 2, 3, 1), labels=labels.astype(np.uint8))
    first = load("cifar10", "test", partial=True, data_dir=tmp_path / "official")
    second = load("cifar10", "test", partial=True, data_dir=tmp_path / "arrays")
    assert np.array_equal(first.images, second.images)
    assert first.hash == second.hash
    labels[0] = 9
    np.savez(tmp_path / "arrays/cifar10/test.npz", images=images.transpose(0, 2, 3, 1), labels=labels)
    assert load("cifar10", "test", partial=True, data_dir=tmp_path / "arrays").hash != first.hash


def test_the_places_of_torchvision_are_known(tmp_path):
    write_idx(tmp_path / "MNIST/raw", "test", pixels(3, 28, 28), np.arange(3), zipped=False)
    write_cifar(tmp_path, pixels(5, 3, 32, 32), np.arange(5))
    assert len(load("mnist", "test", partial=True)) == 3
    assert len(load("cifar10", "test", partial=True)) == 5


def test_loose_arrays_belong_to_no_named_set(tmp_path):
    np.savez(tmp_path / "test.npz", images=pixels(3, 32, 32, 3), labels=np.arange(3))
    with pytest.raises(DataError, match="not in"):
        load("cifar10", "test", partial=True)


@pytest.mark.parametrize(
    ("images", "labels", "what"),
    [
        (pixels(3, 28, 27), np.arange(3), "shape"),
        (pixels(3, 28, 28), np.arange(4), "labels for 3 points"),
        (pixels(3, 28, 28), np.array([0, 1, 10]), r"expected 0..9"),
        (pixels(3, 28, 28), np.array([0, -1, 1]), r"expected 0..9"),
        (pixels(3, 28, 28), np.array([0.0, 1, 1]), "labels are float64"),
        (pixels(3, 28, 28) / 255, np.arange(3), "expected uint8"),
        (pixels(0, 28, 28), np.arange(0), "no rows"),
    ],
)
def test_arrays_that_are_not_the_data_set(tmp_path, images, labels, what):
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist/test.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=what):
        load("mnist", "test", partial=True)


def test_arrays_of_objects_are_never_loaded(tmp_path):
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist/test.npz", images=pixels(2, 28, 28), labels=np.array([1, None], dtype=object))
    with pytest.raises(DataError, match="Python objects, which are never loaded"):
        load("mnist", "test", partial=True)


def test_torn_arrays(tmp_path):
    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist/test.npz"
    np.savez(path, images=pixels(20, 28, 28), labels=np.zeros(20, int))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[3000] ^= 0xFF
    for content in (whole[:4000], bytes(flipped), b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"test.npz"):
            load("mnist", "test", partial=True)


needs_real_data = pytest.mark.skipif("ROBUST_TEST_DATA" not in os.environ, reason="set ROBUST_TEST_DATA to real data")


@needs_real_data
def test_real_mnist():
    folder = Path(os.environ["ROBUST_TEST_DATA"])
    test = load("mnist", "test", data_dir=folder)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert len(load("mnist", "train", data_dir=folder)) == 60_000
    assert test.hash == CONTENT["mnist", "test"]
    assert test.points(slice(None)).max() == 1
