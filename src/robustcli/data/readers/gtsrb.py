"""GTSRB's official files, zipped or unpacked: colour .ppm images and semicolon-separated annotations.

    GTSRB/Final_Training/Images/000cc/GT-000cc.csv, ttttt_fffff.ppm     (track t, frame f, class c)
    GTSRB/Final_Test/Images/iiiii.ppm,  GT-final_test.csv

The whole image is resized to 32x32, bilinear, without cropping to the region of interest. The papers' own resizing is
not published, so pixels need not equal theirs.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from robustcli.data.readers.base import Arrays, Reader, both, damaged, first_existing, guarded
from robustcli.data.specs import Spec

SIZE = 32
TRAIN_ZIP, TEST_ZIP, TRUTH_ZIP = (
    "GTSRB_Final_Training_Images.zip",
    "GTSRB_Final_Test_Images.zip",
    "GTSRB_Final_Test_GT.zip",
)
TRUTH = "GT-final_test.csv"
Tree = Path | zipfile.Path


def find(folder: Path, split: str) -> list[Path] | None:
    """The image folder or zip of a split, and for the test split the file with the classes."""
    if split == "train":
        images = first_existing(folder / "GTSRB/Final_Training", folder / "Final_Training", folder / TRAIN_ZIP)
        return None if images is None else [images]
    images = first_existing(folder / "GTSRB/Final_Test", folder / "Final_Test", folder / TEST_ZIP)
    below = ("", "GTSRB", "GTSRB/Final_Test/Images", "Final_Test/Images")
    truth = first_existing(*(folder / place / TRUTH for place in below), folder / TRUTH_ZIP)
    # Without images the table alone is no data set.
    return None if images is None else both([images, truth], (folder / TEST_ZIP, folder / TRUTH_ZIP))


def rows(files: list[Path]) -> int | None:
    """Unknown without reading the annotations of every class."""
    return None


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Images [n, 3, 32, 32] uint8 and labels [n], in the order of the annotations."""
    with guarded(files[0]):
        if split == "train":
            root = _tree(files[0], "GTSRB/Final_Training/Images/", "Images")
            entries = [entry for c in range(spec.classes) for entry in _class_entries(root, c)]
        else:
            root = _tree(files[0], "GTSRB/Final_Test/Images/", "Images")
            with guarded(files[1]):
                table = _tree(files[1], TRUTH, "")
                entries = [(root / name, label) for name, label in _annotations(table)]
        images = np.empty((len(entries), 3, SIZE, SIZE), np.uint8)
        for i, (path, _) in enumerate(entries):
            images[i] = _pixels(path)
    return images, np.array([label for _, label in entries], np.int64)


def _tree(path: Path, inside: str, below: str) -> Tree:
    """The place `inside` a zip, or `below` a folder."""
    return zipfile.Path(path, inside) if path.suffix == ".zip" else path / below if below else path


def _class_entries(root: Tree, number: int) -> list[tuple[Tree, int]]:
    """Image paths and labels of one class; none when its folder is missing (a partial file set)."""
    folder = root / f"{number:05d}"
    table = folder / f"GT-{number:05d}.csv"
    if not table.exists():
        return []
    entries = [(folder / name, label) for name, label in _annotations(table)]
    wrong = [label for _, label in entries if label != number]
    if wrong:
        raise damaged(str(table), f"annotates class {wrong[0]} in the folder of class {number}")
    return entries


def _annotations(table: Tree) -> list[tuple[str, int]]:
    """(file name, class) of every line of an annotation file."""
    lines = csv.DictReader(io.StringIO(table.read_text(encoding="ascii")), delimiter=";")
    if not {"Filename", "ClassId"} <= set(lines.fieldnames or ()):
        raise damaged(str(table), "has no columns Filename and ClassId")
    return [(str(line["Filename"]), int(line["ClassId"])) for line in lines]


def _pixels(path: Tree) -> np.ndarray:
    """One image resized, [3, 32, 32]."""
    with guarded(str(path)), Image.open(io.BytesIO(path.read_bytes()), formats=["PPM"]) as image:
        resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return np.asarray(resized).transpose(2, 0, 1)


READER = Reader("GTSRB images", find, rows, read)
