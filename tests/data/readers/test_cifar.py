"""CIFAR-10 batches: read back from folder and archive; a pickle that wants to run code never does."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from robustcli.data.readers import cifar
from robustcli.data.specs import spec
from robustcli.errors import DataError
from tests.data.formats import cifar_batch, pixels, write_cifar

CIFAR = spec("cifar10")
IMAGES, LABELS = pixels(10, 3, 32, 32), np.arange(10)


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_round_trip(tmp_path, archive, split):
    write_cifar(tmp_path, IMAGES, LABELS, archive)
    images, labels = cifar.read(cifar.find(tmp_path, split), split, CIFAR)
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)


def test_python2_pickle_bytes():
    """A batch as Python 2's cPickle spelled it: text keys as SHORT_BINSTRING, the old numpy module name."""
    array = pickle.dumps(IMAGES[:1].reshape(1, -1), protocol=2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    body = array.removeprefix(b"\x80\x02").removesuffix(b".")
    content = b"\x80\x02}(U\x04data" + body + b"U\x06labels](K\x03eu."
    batch = cifar.unpickle(content, "batch")
    assert np.array_equal(batch[b"data"], IMAGES[:1].reshape(1, -1))
    assert batch[b"labels"] == [3]


class Bomb:
    """Unpickling it would run a shell command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, protocol):
    marker = tmp_path / "executed"
    folder = write_cifar(tmp_path, IMAGES, LABELS)
    bomb = {b"data": IMAGES[:2].reshape(2, -1), b"labels": [Bomb(marker), 1]}
    (folder / "test_batch").write_bytes(pickle.dumps(bomb, protocol=protocol))
    with pytest.raises(DataError, match=r"test_batch.*asks for .*system.*not executed"):
        cifar.read(cifar.find(tmp_path, "test"), "test", CIFAR)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
        b"cnumpy\nndarray\n(I1000000000000\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    ],
)
def test_only_plain_arrays_are_known(content):
    with pytest.raises(DataError, match="batch"):
        cifar.unpickle(content, "batch")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        cifar_batch(IMAGES, LABELS)[:-100],
        cifar_batch(IMAGES, LABELS[:9]),
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({b"data": IMAGES.reshape(10, -1)[:, :100], b"labels": [0] * 10}, protocol=2),
        pickle.dumps({b"data": IMAGES.reshape(10, -1), b"labels": ["a"] * 10}, protocol=2),
    ],
)
def test_damage_is_named(tmp_path, content):
    folder = write_cifar(tmp_path, IMAGES, LABELS)
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_3"):
        cifar.read(cifar.find(tmp_path, "train"), "train", CIFAR)


def test_missing_batch_and_torn_archive(tmp_path):
    folder = write_cifar(tmp_path / "a", IMAGES, LABELS)
    (folder / "data_batch_2").unlink()
    with pytest.raises(DataError, match=r"data_batch_2 is missing, 4 of 5"):
        cifar.find(tmp_path / "a", "train")
    archive = write_cifar(tmp_path / "b", IMAGES, LABELS, archive=True)
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz"):
        cifar.read([archive], "test", CIFAR)
