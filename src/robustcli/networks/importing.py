"""Other people's networks: read, named, checked against the figures known for them, stored as a finished run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from robustcli.errors import CheckpointError, DataError, UsageError
from robustcli.files import sha256
from robustcli.networks.bundles import read_bundle
from robustcli.networks.checkpoints import load, save
from robustcli.networks.metadata import Metadata
from robustcli.networks.network import Network, margins
from robustcli.networks.origin import Origin
from robustcli.networks.published import by_sha256
from robustcli.networks.state_dicts import Constants, Target, read_state_dict

BUNDLE_SUFFIXES = (".json", ".npz")
TOLERANCE = 5e-4  # printed figures are rounded, and float32 arithmetic moves a few points of 10,000
BATCH = 500


@dataclass(frozen=True)
class CleanCheck:
    """The clean error measured on the test split beside the printed one (fractions), or why it was not measured."""

    measured: float | None = None
    points: int = 0
    published: float | None = None
    reason: str | None = None
    partial: bool = False

    @property
    def agrees(self) -> bool:
        """False only when both figures stand for the same points and differ by more than rounding."""
        if self.measured is None or self.published is None or self.partial:
            return True
        return abs(self.measured - self.published) <= TOLERANCE


@dataclass(frozen=True)
class Imported:
    """A network as stored."""

    path: Path
    network: Network
    metadata: Metadata
    origin: Origin
    check: CleanCheck


def read(
    path: Path,
    *,
    name: str | None = None,
    architecture: str | None = None,
    dataset: str | None = None,
    normalise: Constants | None = None,
    stage: int | None = None,
) -> tuple[Network, Origin]:
    """The network in a plain-array bundle or a state dict, and its origin; a published file is recognised by sha256.

    Raises:
        CheckpointError, UsageError: see `bundles.read_bundle` and `state_dicts.read_state_dict`.
    """
    if path.suffix in BUNDLE_SUFFIXES:
        if architecture is not None or normalise is not None or stage is not None:
            raise UsageError(
                "a bundle says all of its architecture itself", "leave out --architecture, --mean, --stage"
            )
        network, origin = read_bundle(path)
        known = by_sha256(origin.sha256)
        if known is not None and not origin.figures:
            origin = replace(origin, figures=known.figures, where=known.where)
    else:
        network, origin = _read_state_dict(path, architecture, dataset, normalise, stage)
    origin = replace(origin, name=_folder_name(name or origin.name), dataset=dataset or origin.dataset)
    _check_fits(network, origin.dataset)
    return network, origin


def _read_state_dict(
    path: Path, architecture: str | None, dataset: str | None, normalise: Constants | None, stage: int | None
) -> tuple[Network, Origin]:
    known = by_sha256(sha256(path)) if path.is_file() else None
    if known is not None:
        origin = known.origin
        architecture, dataset = architecture or known.architecture, dataset or known.dataset
    else:
        origin = Origin(path.stem, dataset, f"file:{path.name}", sha256(path) if path.is_file() else None)
    target = Target()
    if dataset is not None:
        from robustcli.data.specs import spec

        declared = spec(dataset)
        target = Target(dataset, declared.input_shape, declared.classes)
    network, notes = read_state_dict(path, target, architecture=architecture, normalise=normalise, stage=stage)
    return network, replace(origin, notes=tuple(notes))


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise UsageError(f"{name!r} cannot name a run folder", "use letters, digits and . _ - with --name")
    return name


def _check_fits(network: Network, dataset: str | None) -> None:
    """The network takes the data set's inputs and tells its classes apart."""
    if dataset is None:
        return
    from robustcli.data.specs import spec

    declared = spec(dataset)
    if network.input_shape != tuple(declared.input_shape) or network.classes != declared.classes:
        raise UsageError(
            f"the network takes inputs {list(network.input_shape)} and has {network.classes} classes; "
            f"{dataset} has {list(declared.input_shape)} and {declared.classes}",
            "name the data set it was trained on with --dataset",
        )


def check_clean_error(network: Network, dataset: str | None, published: float | None = None) -> CleanCheck:
    """Clean error in float64 over the data set's test split; not measured when its files are not there.

    Args:
        network: any precision.
        dataset: a name, or None when it is not known.
        published: the authors' figure, a fraction.
    """
    if dataset is None:
        return CleanCheck(published=published, reason="the data set is not known (--dataset)")
    from robustcli.data.datasets import load as load_split

    try:
        split = load_split(dataset, "test", partial=True)
    except DataError as error:
        return CleanCheck(published=published, reason=error.message)
    exact, wrong = network.double(), 0
    with torch.no_grad():
        for start in range(0, len(split), BATCH):
            index = torch.arange(start, min(start + BATCH, len(split)))
            labels = split.labels_tensor(index)
            wrong += int((margins(exact(split.points(index)), labels) <= 0).sum())
    return CleanCheck(wrong / len(split), len(split), published, partial=split.partial is not None)


def import_network(
    path: Path,
    out: Path | None = None,
    *,
    name: str | None = None,
    architecture: str | None = None,
    dataset: str | None = None,
    normalise: Constants | None = None,
    stage: int | None = None,
    check: bool = True,
    replace_other: bool = False,
) -> Imported:
    """Read a network, check it, and store it as a checkpoint that every command takes.

    Args:
        path: NAME.json or NAME.npz of a bundle, or a state dict.
        out: the checkpoint to write; None: `runs/<name>/seed-0/weights.safetensors`.
        name, architecture, dataset, normalise, stage: what the file does not say itself.
        check: measure the clean error when the data are there and refuse a figure other than the printed one.
        replace_other: overwrite a different network at `out`.
    Raises:
        CheckpointError: the file cannot be used, or its clean error is not the printed one.
        UsageError: something is missing or does not fit.
    """
    network, origin = read(
        path, name=name, architecture=architecture, dataset=dataset, normalise=normalise, stage=stage
    )
    if out is None:
        from robustcli.results.runs import RunFolder, runs_root

        out = RunFolder(runs_root() / origin.name / "seed-0").weights
    _check_free(out, network, replace_other)
    if check:
        result = check_clean_error(network, origin.dataset, origin.clean_error)
    else:
        result = CleanCheck(published=origin.clean_error, reason="--no-check")
    if not result.agrees:
        raise CheckpointError(
            f"{path}: clean error {100 * (result.measured or 0):.2f} % on {origin.dataset}, "
            f"published {100 * (result.published or 0):.2f} %",
            "another architecture, normalisation or data set? --no-check imports it all the same",
        )
    metadata = save(out, network, _metadata(origin, result))
    return Imported(out, network, metadata, origin, result)


def _check_free(out: Path, network: Network, replace_other: bool) -> None:
    """Refuse to overwrite another network's checkpoint (the same weights may be written again)."""
    if not out.exists() or replace_other:
        return
    if load(out).metadata.weights_sha256 != network.weights_hash():
        raise UsageError(f"{out} holds another network", "choose --name or --out, or overwrite with --force")


def _metadata(origin: Origin, check: CleanCheck) -> Metadata:
    figures: dict[str, float | None] = {f"published_{key}": value for key, value in origin.figures.items()}
    if check.measured is not None:
        figures |= {"clean_error": check.measured, "clean_error_points": float(check.points)}
    source = origin.source
    if origin.sha256:
        source = f"{source or ''} sha256:{origin.sha256}".strip()
    return Metadata(
        dataset=origin.dataset,
        norm=origin.norm,
        eps=origin.eps,
        source=source,
        licence=origin.licence,
        figures=figures,
    )
