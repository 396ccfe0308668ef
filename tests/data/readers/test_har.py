"""UCI HAR's text files, unpacked and in one or two zips."""

from __future__ import annotations

import numpy as np
import pytest

from robustcli.data.readers import har
from robustcli.data.specs import spec
from robustcli.errors import DataError
from tests.data.formats import har_files, zip_bytes

HAR = spec("har")
POINTS = np.random.default_rng(0).uniform(-1, 1, (4, 561)).round(7)
LABELS = np.array([5, 1, 6, 2])


def put(folder, form):
    members = har_files(POINTS, LABELS, "test")
    if form == "folder":
        for name, content in members.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    elif form == "inner":
        (folder / har.INNER).write_bytes(zip_bytes(members))
    else:
        (folder / har.OUTER).write_bytes(zip_bytes({har.INNER: zip_bytes(members), "names.txt": b""}))


@pytest.mark.parametrize("form", ["folder", "inner", "outer"])
def test_round_trip(tmp_path, form):
    put(tmp_path, form)
    files = har.find(tmp_path, "test")
    assert har.rows(files) in (4, None)
    points, labels = har.read(files, "test", HAR)
    assert points.dtype == np.float64
    assert np.abs(points - POINTS).max() < 1e-7
    assert labels.tolist() == [4, 0, 5, 1]


def test_damage_is_named(tmp_path):
    put(tmp_path, "folder")
    path = tmp_path / "UCI HAR Dataset/test/X_test.txt"
    whole = path.read_bytes()
    for content in (whole[:-500], whole.replace(b"e-01", b"e-0x", 1)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"X_test.txt"):
            har.read(har.find(tmp_path, "test"), "test", HAR)
    path.write_bytes(whole)
    path.with_name("y_test.txt").write_text("5\n0\n7\n1\n")
    with pytest.raises(DataError, match=r"y_test.txt: labels outside 1..6"):
        har.read(har.find(tmp_path, "test"), "test", HAR)
    path.unlink()
    with pytest.raises(DataError, match=r"X_test.txt is missing"):
        har.find(tmp_path, "test")


def test_zip_without_the_files(tmp_path):
    (tmp_path / har.INNER).write_bytes(zip_bytes({"other.txt": b""}))
    with pytest.raises(DataError, match=har.INNER):
        har.read(har.find(tmp_path, "test"), "test", HAR)
