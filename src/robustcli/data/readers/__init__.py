"""The official file format of every data set, and the arrays format any of them may lie in."""

from __future__ import annotations

from robustcli.data.readers import cifar, digits, gtsrb, har, idx, npz, svhn, toy
from robustcli.data.readers.base import Reader

OFFICIAL: dict[str, Reader] = {
    "digits": digits.READER,
    "mnist": idx.READER,
    "fashion-mnist": idx.READER,
    "cifar10": cifar.READER,
    "svhn": svhn.READER,
    "gtsrb": gtsrb.READER,
    "har": har.READER,
    "toy-2d": toy.READER,
}
ARRAYS = npz.READER
