"""npz:PATH, the user's own arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robustcli.data.datasets import load
from robustcli.data.specs import spec
from robustcli.errors import DataError, UsageError
from tests.data.formats import pixels


def put(folder, images, labels, split="test"):
    np.savez(folder / f"{split}.npz", images=images, labels=labels)
    return f"npz:{folder}"


@pytest.mark.parametrize(
    ("stored", "shape"), [((6, 5), (1, 6, 5)), ((6, 5, 1), (1, 6, 5)), ((6, 5, 3), (3, 6, 5)), ((12,), (12,))]
)
def test_uint8_is_an_image(tmp_path, stored, shape):
    images = pixels(4, *stored)
    name = put(tmp_path, images, np.arange(4))
    declared = spec(name)
    assert (declared.input_shape, declared.classes, declared.scale, declared.box) == (shape, 4, 255.0, (0.0, 1.0))
    split = load(name, "test")
    assert split.partial is None
    assert split.images.shape == (4, *shape)
    if len(stored) == 3:
        assert np.array_equal(split.images, images.transpose(0, 3, 1, 2))
    assert split.points(slice(None)).max() == images.max() / 255


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble])
def test_floats_are_taken_as_given(tmp_path, dtype):
    values = np.linspace(-2, 2, 24).reshape(4, 6).astype(dtype)
    name = put(tmp_path, values, np.arange(4))
    declared = spec(name)
    assert (declared.scale, declared.box, declared.input_shape) == (1.0, None, (6,))
    assert np.array_equal(load(name, "test").points(slice(None)).numpy(), values.astype(np.float64))


def test_floats_in_the_unit_interval_have_a_box(tmp_path):
    name = put(tmp_path, np.linspace(0, 1, 24).reshape(2, 3, 4), np.arange(2))
    assert spec(name).box == (0.0, 1.0)
    put(tmp_path, np.full((2, 3, 4), 1.5), np.arange(2), "train")
    assert spec(name).box is None


def test_a_file_stands_for_its_folder_and_both_splits_count(tmp_path):
    put(tmp_path, pixels(4, 6, 5), np.array([0, 1, 2, 1]), "train")
    put(tmp_path, pixels(2, 6, 5), np.array([0, 4]))
    declared = spec(f"npz:{tmp_path / 'train.npz'}")
    assert declared.classes == 5
    assert declared.rows == {"train": 4, "test": 2}


def test_declaration(tmp_path):
    name = put(tmp_path, np.zeros((2, 3, 8, 8)), np.arange(2))
    with pytest.raises(DataError, match="channels first"):
        spec(name)
    content = {"layout": "NCHW", "box": [-1, 1], "class_names": ["a", "b", "c"], "eps": {"linf": 0.5}, "title": "mine"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    declared = spec(name)
    assert declared.input_shape == (3, 8, 8)
    assert declared.box == (-1.0, 1.0)
    assert declared.classes == 3
    assert declared.eps["linf"] == 0.5
    assert load(name, "test").images.shape == (2, 3, 8, 8)
    with pytest.raises(UsageError, match="no l2 radius"):
        declared.eps["l2"]
    (tmp_path / "dataset.json").write_text('{"box": "none", "layout": "NCHW"}')
    assert spec(name).box is None


@pytest.mark.parametrize("text", ['{"klasses": 3}', '{"scale": "big"}', "{", "[]"])
def test_bad_declaration(tmp_path, text):
    name = put(tmp_path, pixels(2, 4, 4), np.arange(2))
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset.json"):
        spec(name)


def test_refusals(tmp_path):
    with pytest.raises(DataError, match=r"neither train.npz nor test.npz"):
        spec(f"npz:{tmp_path}")
    name = put(tmp_path, pixels(2, 4, 4).astype(np.int64), np.arange(2))
    with pytest.raises(DataError, match="int64"):
        spec(name)
    put(tmp_path, np.array([[1.0, np.nan], [0, 0]]), np.arange(2))
    with pytest.raises(DataError, match="NaN"):
        load(name, "test")
    with pytest.raises(DataError, match=r"no train.npz"):
        load(name, "train")
    put(tmp_path, pixels(2, 4, 4), np.arange(2), "train")
    with pytest.raises(DataError, match="per point"):
        spec(name)
    np.savez(tmp_path / "train.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"no array `images` \(found x\)"):
        spec(name)
