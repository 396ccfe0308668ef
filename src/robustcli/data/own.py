"""`npz:PATH`: the user's own arrays, declared by the files themselves and, where needed, by a dataset.json beside them.

PATH is a folder with train.npz and test.npz, or one of the two files (the other is looked for beside it). One of them
is enough when only that split is asked for.

uint8 arrays are images: scale 255, box [0, 1]. Float arrays are taken as given: scale 1, box [0, 1] when every value of
every file lies in it, else none. dataset.json may say otherwise; its keys are those of `Declaration`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from robustcli.data.readers import npz
from robustcli.data.readers.base import Arrays, Reader, damaged, guarded
from robustcli.data.specs import OWN_PREFIX, SPLITS, UNIT, Radii, Spec
from robustcli.errors import DataError

DECLARATION = "dataset.json"


class Declaration(BaseModel):
    """dataset.json: what arrays alone cannot say. Every key is optional; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")

    title: str | None = None
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    scale: float | None = None
    box: tuple[float, float] | Literal["none"] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    eps: dict[Literal["l1", "l2", "linf"], float] = {}
    licence: str = "not stated"


def folder_of(name: str) -> Path:
    """The folder of `npz:PATH`.

    Raises:
        DataError: when it holds neither train.npz nor test.npz.
    """
    path = Path(name.removeprefix(OWN_PREFIX)).expanduser()
    folder = path.parent if path.suffix == ".npz" else path
    if not any((folder / f"{split}.npz").exists() for split in SPLITS):
        raise DataError(
            f"{name}: neither train.npz nor test.npz in {folder}",
            "write them with numpy.savez(path, images=..., labels=...): uint8 [n, H, W] or [n, H, W, C], or floats",
        )
    return folder


def own_spec(name: str) -> Spec:
    """The declaration of the user's arrays.

    Raises:
        DataError: when files or dataset.json are unusable or contradict each other.
    """
    folder = folder_of(name)
    files = [folder / f"{split}.npz" for split in SPLITS] + [folder / DECLARATION]
    stamp = tuple((path, path.stat().st_mtime_ns) for path in files if path.exists())
    return _spec(name, folder, stamp)


@functools.lru_cache(maxsize=8)
def _spec(name: str, folder: Path, stamp: object) -> Spec:
    declared = declaration(folder)
    files = {split: folder / f"{split}.npz" for split in SPLITS if (folder / f"{split}.npz").exists()}
    headers = {path: npz.header(path, "images") for path in files.values()}
    (first, (shape, dtype)), *others = headers.items()
    for path, (other_shape, other_dtype) in others:
        if (other_shape[1:], other_dtype) != (shape[1:], dtype):
            raise damaged(
                path, f"`images` is {other_dtype} {other_shape[1:]} per point, in {first.name} {dtype} {shape[1:]}"
            )
    if dtype != np.uint8 and dtype.kind != "f":
        raise damaged(first, f"`images` is {dtype}; store uint8 images or float features")
    images = dtype == np.uint8
    box = declared.box if declared.box is not None else UNIT if images or _in_unit_box(files.values()) else None
    return Spec(
        name=name,
        title=declared.title or f"own arrays in {folder}",
        input_shape=_input_shape(first, shape, declared.layout),
        classes=declared.classes
        or len(declared.class_names)
        or 1 + max(_largest_label(path) for path in files.values()),
        box=None if box == "none" else box,
        scale=declared.scale or (255.0 if images else 1.0),
        mean=declared.mean,
        std=declared.std,
        eps=Radii(**declared.eps),
        rows={split: npz.rows([path]) for split, path in files.items()},
        class_names=declared.class_names,
        licence=declared.licence,
        sources=(str(folder),),
    )


def declaration(folder: Path) -> Declaration:
    """dataset.json of the folder, or the defaults.

    Raises:
        DataError: when it is not valid.
    """
    path = folder / DECLARATION
    if not path.exists():
        return Declaration()
    with guarded(path):
        text = path.read_text(encoding="utf-8")
    try:
        return Declaration.model_validate(json.loads(text))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataError(f"{path}: {problems}", f"known keys: {', '.join(Declaration.model_fields)}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error


def _input_shape(path: Path, shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    point = shape[1:]
    if len(point) == 1:
        return point
    if len(point) == 2:
        return (1, *point)
    if len(point) != 3:
        raise damaged(path, f"`images` has shape {list(shape)}, expected [n, H, W], [n, H, W, C] or [n, d]")
    if layout == "NCHW":
        return point
    if point[0] in (1, 3) and point[2] not in (1, 3, 4):
        raise DataError(
            f"{path}: `images` of shape {list(shape)} look like channels first, expected [n, H, W, C]",
            f'store images.transpose(0, 2, 3, 1), or write {{"layout": "NCHW"}} into {DECLARATION}',
        )
    return (point[2], point[0], point[1])


def _in_unit_box(paths: Iterable[Path]) -> bool:
    parts = [npz.arrays(path)[0] for path in paths]
    return all(part.size > 0 and bool((part >= 0).all() and (part <= 1).all()) for part in parts)


def _largest_label(path: Path) -> int:
    npz.header(path, "labels")
    with guarded(path), np.load(path, allow_pickle=False) as content:
        return int(content["labels"].max(initial=0))


def find(folder: Path, split: str) -> list[Path] | None:
    """The file of a split."""
    return npz.find(folder, split)


def read(files: list[Path], split: str, spec: Spec) -> Arrays:
    """Points [n, *input_shape] and labels [n]."""
    images, labels = npz.arrays(files[0])
    if images.ndim == 4 and declaration(files[0].parent).layout == "NCHW":
        return images, labels
    return images.reshape(len(images), *spec.input_shape) if images.ndim < 4 else _to_front(images), labels


def _to_front(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


READER = Reader("npz", find, npz.rows, read)
