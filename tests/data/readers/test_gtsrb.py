"""GTSRB's official layout, zipped and unpacked."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from robustcli.data.readers import gtsrb
from robustcli.data.specs import spec
from robustcli.errors import DataError
from tests.data.formats import annotations, pixels, write_gtsrb

GTSRB = spec("gtsrb")
IMAGES = [pixels(1, 20 + 5 * i, 30 + i, 3, seed=i)[0] for i in range(5)]
LABELS = [42, 3, 3, 0, 42]


def resized(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip(tmp_path, zipped):
    write_gtsrb(tmp_path, IMAGES, LABELS, zipped)
    images, labels = gtsrb.read(gtsrb.find(tmp_path, "test"), "test", GTSRB)
    assert labels.tolist() == LABELS
    assert np.array_equal(images, np.stack([resized(image) for image in IMAGES]))

    images, labels = gtsrb.read(gtsrb.find(tmp_path, "train"), "train", GTSRB)
    assert labels.tolist() == [0, 3, 3, 42, 42]
    assert np.array_equal(images, np.stack([resized(IMAGES[i]) for i in (3, 1, 2, 0, 4)]))


def test_an_image_of_the_right_size_is_unchanged(tmp_path):
    image = pixels(1, 32, 32, 3)[0]
    write_gtsrb(tmp_path, [image], [7], zipped=False)
    images, _ = gtsrb.read(gtsrb.find(tmp_path, "test"), "test", GTSRB)
    assert np.array_equal(images[0], image.transpose(2, 0, 1))


def test_damage_is_named(tmp_path):
    write_gtsrb(tmp_path, IMAGES, LABELS, zipped=False)
    frame = tmp_path / "GTSRB/Final_Training/Images/00003/00001_00000.ppm"
    whole = frame.read_bytes()
    for content in (whole[:200], b"not an image", b""):
        frame.write_bytes(content)
        with pytest.raises(DataError, match=r"00001_00000.ppm"):
            gtsrb.read(gtsrb.find(tmp_path, "train"), "train", GTSRB)
    frame.unlink()
    with pytest.raises(DataError, match=r"00001_00000.ppm: no such file"):
        gtsrb.read(gtsrb.find(tmp_path, "train"), "train", GTSRB)


def test_annotations_must_agree_with_the_folder(tmp_path):
    write_gtsrb(tmp_path, IMAGES, LABELS, zipped=False)
    table = tmp_path / "GTSRB/Final_Training/Images/00003/GT-00003.csv"
    table.write_text(annotations([("00000_00000.ppm", 5)]))
    with pytest.raises(DataError, match="annotates class 5 in the folder of class 3"):
        gtsrb.read(gtsrb.find(tmp_path, "train"), "train", GTSRB)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no columns Filename and ClassId"):
        gtsrb.read(gtsrb.find(tmp_path, "train"), "train", GTSRB)


def test_test_images_need_their_classes(tmp_path):
    write_gtsrb(tmp_path, IMAGES, LABELS, zipped=True)
    (tmp_path / "GTSRB_Final_Test_GT.zip").unlink()
    with pytest.raises(DataError, match=r"GTSRB_Final_Test_GT.zip is missing"):
        gtsrb.find(tmp_path, "test")


def test_torn_zip_is_named(tmp_path):
    write_gtsrb(tmp_path, IMAGES, LABELS, zipped=True)
    path = tmp_path / "GTSRB_Final_Test_Images.zip"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"GTSRB_Final_Test_Images.zip"):
        gtsrb.read(gtsrb.find(tmp_path, "test"), "test", GTSRB)
