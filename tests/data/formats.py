"""Small files in the official formats, for tests of the readers."""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def pixels(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray, zipped: bool = True) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"train": "train", "test": "t10k"}[split]
    paths = []
    for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        path = folder / (name + ".gz" * zipped)
        path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
        paths.append(path)
    return paths


def cifar_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A pickle as Python 2 wrote it (protocol 2); images [n, 3, 32, 32]."""
    batch = {
        b"batch_label": b"testing batch 1 of 1",
        b"labels": [int(label) for label in labels],
        b"data": images.reshape(len(images), -1),
        b"filenames": [b"a.png"] * len(images),
    }
    return pickle.dumps(batch, protocol=2)


def write_cifar(folder: Path, images: np.ndarray, labels: np.ndarray, archive: bool = False) -> Path:
    """Five equal training batches (images split among them) and a test batch holding all images."""
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = [*np.array_split(np.arange(len(images)), 5), np.arange(len(images))]
    contents = {name: cifar_batch(images[part], labels[part]) for name, part in zip(names, parts, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    if archive:
        path = folder / "cifar-10-python.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in contents.items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for name, content in contents.items():
        (batches / name).write_bytes(content)
    return batches


def write_svhn(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> Path:
    """images [n, 3, 32, 32], labels 1..10."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}_32x32.mat"
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": labels.reshape(-1, 1)}, do_compression=True)
    return path


def ppm(image: np.ndarray) -> bytes:
    """image [H, W, 3]."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PPM")
    return out.getvalue()


def annotations(rows: list[tuple[str, int]]) -> str:
    out = io.StringIO()
    table = csv.writer(out, delimiter=";", lineterminator="\n")
    table.writerow(["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"])
    for name, label in rows:
        table.writerow([name, 40, 40, 5, 5, 35, 35, label])
    return out.getvalue()


def gtsrb_files(images: list[np.ndarray], labels: list[int]) -> dict[str, dict[str, bytes]]:
    """The members of the three official zips; every image is one frame of its own track."""
    train: dict[str, bytes] = {}
    for label in sorted(set(labels)):
        place = f"GTSRB/Final_Training/Images/{label:05d}"
        mine = [image for image, own in zip(images, labels, strict=True) if own == label]
        names = [f"{track:05d}_00000.ppm" for track in range(len(mine))]
        train |= {f"{place}/{name}": ppm(image) for name, image in zip(names, mine, strict=True)}
        train[f"{place}/GT-{label:05d}.csv"] = annotations([(name, label) for name in names]).encode()
    names = [f"{i:05d}.ppm" for i in range(len(images))]
    return {
        "GTSRB_Final_Training_Images.zip": train,
        "GTSRB_Final_Test_Images.zip": {
            f"GTSRB/Final_Test/Images/{name}": ppm(image) for name, image in zip(names, images, strict=True)
        },
        "GTSRB_Final_Test_GT.zip": {"GT-final_test.csv": annotations(list(zip(names, labels, strict=True))).encode()},
    }


def write_gtsrb(folder: Path, images: list[np.ndarray], labels: list[int], zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in gtsrb_files(images, labels).items():
        if zipped:
            (folder / name).write_bytes(zip_bytes(members))
        else:
            for member, content in members.items():
                path = folder / member
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def zip_bytes(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def har_files(points: np.ndarray, labels: np.ndarray, split: str) -> dict[str, bytes]:
    """The two text files in UCI's layout; labels 1..6."""
    lines = "".join("".join(f" {value: .7e}" for value in row) + "\n" for row in points)
    place = f"UCI HAR Dataset/{split}"
    return {
        f"{place}/X_{split}.txt": lines.encode(),
        f"{place}/y_{split}.txt": "".join(f"{label}\n" for label in labels).encode(),
    }
