"""The papers' architectures by name (methods of 000-004; CROWN-IBP's and COLT's model families). Imports no torch.

An architecture is a plan of hidden layers, convolutions first; it fits any input shape and number of classes for
which the kernels fit. ReLUs stand between layers, a flattening before the first dense one, the K logits last.
Named patterns give whole families: `2x100`, `convmed-2-4-250`, `ci-4layer-w8-fc512`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustcli.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from robustcli.networks.network import Network

LARGEST = 100_000  # a dense layer beyond this is a slip of the keyboard


@dataclass(frozen=True)
class Conv:
    """A convolution: channels, kernel k, stride s, padding p."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 1

    def __str__(self) -> str:
        return f"{self.channels}k{self.kernel}s{self.stride}p{self.padding}"


@dataclass(frozen=True)
class Dense:
    """A fully connected layer of `units`."""

    units: int

    def __str__(self) -> str:
        return f"fc{self.units}"


Plan = tuple[Conv | Dense, ...]


@dataclass(frozen=True)
class Architecture:
    """A named plan of hidden layers and where it comes from."""

    name: str
    plan: Plan
    paper: str
    inputs: tuple[int, ...] | None = None
    """The one input shape it is meant for, if the name says so (it still builds for others)."""

    @property
    def words(self) -> str:
        """The hidden layers in short: `16k4s2p1 fc100` (16 channels, kernel 4, stride 2, padding 1), `7*fc104`."""
        runs = [(step, len(list(same))) for step, same in itertools.groupby(self.plan)]
        return " ".join(f"{count}*{step}" if count > 1 else str(step) for step, count in runs)


def dense(*units: int) -> Plan:
    """Fully connected hidden layers."""
    return tuple(map(Dense, units))


def ci_2layer(width: int, units: int) -> Plan:
    """CROWN-IBP's block of two strided convolutions."""
    return (Conv(4 * width, 4, 2), Conv(8 * width, 4, 2), Dense(units))


def ci_4layer(width: int, units: int) -> Plan:
    """CROWN-IBP's block of four convolutions; KW's large net is the width 8."""
    w = 4 * width
    return (Conv(w, 3), Conv(w, 4, 2), Conv(2 * w, 3), Conv(2 * w, 4, 2), Dense(units), Dense(units))


def ci_3layer(kernel: int, width: int, units: int) -> Plan:
    """CROWN-IBP's block of two k x k convolutions and one k4 s4 p0."""
    return (Conv(4 * width, kernel), Conv(8 * width, kernel), Conv(8 * width, 4, 4, 0), Dense(units))


def convmed(width1: int, width2: int, units: int) -> Plan:
    """COLT's ConvMed."""
    return (Conv(16 * width1, 5, 2, 2), Conv(32 * width2, 4, 2), Dense(units))


def convmedbig(width1: int, width2: int, width3: int, units: int) -> Plan:
    """COLT's ConvMedBig."""
    return (Conv(16 * width1, 3), Conv(16 * width2, 4, 2), Conv(32 * width3, 4, 2), Dense(units))


# CROWN-IBP's configurations mnist_crown (ten nets) and mnist_crown_large (eight entries, two of them the same net)
CI_SMALL = "004 small"
CI_LARGE = "004 large"

NAMED: dict[str, Architecture] = {
    item.name: item
    for item in (
        Architecture("fc1", dense(1024), "000"),
        Architecture("fc10", dense(124, *[104] * 7, *[86] * 2), "000"),
        Architecture("cnn", (Conv(16, 4, 2), Conv(32, 4, 2), Dense(100)), "000, 001, 003, 004"),
        Architecture("large", ci_4layer(8, 512), "001, 004"),
        Architecture(
            "xlarge", (Conv(64, 3), Conv(64, 3), Conv(128, 3, 2), Conv(128, 3), Conv(128, 3), Dense(512)), "004"
        ),
        Architecture("2x100", dense(100, 100), "004"),
        Architecture("ci-2layer-w1-fc128", ci_2layer(1, 128), CI_SMALL),
        Architecture("ci-2layer-w2-fc256", ci_2layer(2, 256), CI_SMALL),
        Architecture("ci-4layer-w1-fc256", ci_4layer(1, 256), CI_SMALL),
        Architecture("ci-4layer-w2-fc256", ci_4layer(2, 256), CI_SMALL),
        Architecture("ci-4layer-w1-fc512", ci_4layer(1, 512), CI_SMALL),
        Architecture("ci-4layer-w2-fc512", ci_4layer(2, 512), CI_SMALL),
        Architecture("ci-3layer-k3-w1-fc64", ci_3layer(3, 1, 64), CI_SMALL),
        Architecture("ci-3layer-k3-w2-fc128", ci_3layer(3, 2, 128), CI_SMALL),
        Architecture("ci-3layer-k5-w1-fc64", ci_3layer(5, 1, 64), CI_SMALL),
        Architecture("ci-3layer-k5-w2-fc128", ci_3layer(5, 2, 128), CI_SMALL),
        Architecture("ci-4layer-w4-fc512", ci_4layer(4, 512), CI_LARGE),
        Architecture("ci-4layer-w8-fc512", ci_4layer(8, 512), CI_LARGE),
        Architecture("ci-4layer-w16-fc512", ci_4layer(16, 512), CI_LARGE),
        Architecture("ci-3layer-k5-w16-fc512", ci_3layer(5, 16, 512), CI_LARGE),
        Architecture("ci-3layer-k5-w8-fc512", ci_3layer(5, 8, 512), CI_LARGE),
        Architecture("ci-3layer-k5-w4-fc512", ci_3layer(5, 4, 512), CI_LARGE),
        Architecture("ci-3layer-k3-w8-fc512", ci_3layer(3, 8, 512), CI_LARGE),
        Architecture("convmed-2-2-100", convmed(2, 2, 100), "002 MNIST 0.1"),
        Architecture("convmed-2-4-250", convmed(2, 4, 250), "002 MNIST 0.3, CIFAR-10 8/255"),
        Architecture("convmedbig-2-2-4-250", convmedbig(2, 2, 4, 250), "002 CIFAR-10 2/255"),
        # 002 prints no padding for its SVHN net; none is taken.
        Architecture("svhn-colt", (Conv(32, 4, 1, 0), Conv(64, 4, 1, 0), Dense(100)), "002 SVHN"),
        Architecture("har", dense(500), "003 HAR", (561,)),
        Architecture("toy-kw", dense(100, 100, 100, 100), "003 2-D", (2,)),
        Architecture("toy-mmr", dense(100), "000 2-D", (2,)),
    )
}

ALIASES = {"small": "cnn", "dm-large": "xlarge"}
# Models A to J of 004, Table 2, whose order it does not state: here that of the configuration.
ALIASES |= {
    f"ci-{letter}": item.name
    for letter, item in zip("abcdefghij", (item for item in NAMED.values() if item.paper == CI_SMALL), strict=True)
}

Family = tuple[str, Callable[..., Plan], str]
PATTERNS: dict[str, Family] = {
    "<layers>x<units>": (r"(\d+)x(\d+)", lambda layers, units: dense(*[units] * layers), "any"),
    "convmed-<w1>-<w2>-<units>": (r"convmed-(\d+)-(\d+)-(\d+)", convmed, "002"),
    "convmedbig-<w1>-<w2>-<w3>-<units>": (r"convmedbig-(\d+)-(\d+)-(\d+)-(\d+)", convmedbig, "002"),
    "ci-2layer-w<w>-fc<units>": (r"ci-2layer-w(\d+)-fc(\d+)", ci_2layer, "004"),
    "ci-3layer-k<k>-w<w>-fc<units>": (r"ci-3layer-k(\d+)-w(\d+)-fc(\d+)", ci_3layer, "004"),
    "ci-4layer-w<w>-fc<units>": (r"ci-4layer-w(\d+)-fc(\d+)", ci_4layer, "004"),
}


def names() -> list[str]:
    """All named architectures, in the order of the papers. Patterns give more (`PATTERNS`)."""
    return list(NAMED)


def architecture(name: str) -> Architecture:
    """The architecture of that name, alias or pattern.

    Raises:
        UnknownNameError: with the nearest name.
        UsageError: for a pattern with a size of zero or beyond reason.
    """
    known = NAMED.get(ALIASES.get(name, name))
    if known is not None:
        return known
    for expression, plan, paper in PATTERNS.values():
        match = re.fullmatch(expression, name)
        if match is None:
            continue
        sizes = [int(size) for size in match.groups()]
        if not all(1 <= size <= LARGEST for size in sizes):
            raise UsageError(f"architecture {name!r}: every size must be from 1 to {LARGEST}")
        if expression == PATTERNS["<layers>x<units>"][0] and sizes[0] > 100:
            raise UsageError(f"architecture {name!r}: at most 100 layers", "write <layers>x<units>, e.g. 2x100")
        return Architecture(name, plan(*sizes), paper)
    raise UnknownNameError("architecture", name, [*NAMED, *ALIASES], f"patterns: {', '.join(PATTERNS)}")


def description(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    *,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The architecture as the JSON object that `Network.from_description` reads.

    Args:
        name: a name or pattern.
        input_shape: [channels, rows, columns] or [features].
        classes: number of logits K.
        normalise: (mean, std) per channel for a first layer (x - mean) / std.
    Raises:
        UnknownNameError: for an unknown name.
        UsageError: when the architecture does not fit the input shape.
    """
    found = architecture(name)
    shape = tuple(int(side) for side in input_shape)
    if not shape or min(shape) < 1 or classes < 1:
        raise UsageError(f"architecture {name!r}: no network for inputs {list(shape)} and {classes} classes")
    layers: list[dict[str, Any]] = []
    if normalise is not None:
        layers.append(_normalise(name, shape, *normalise))
    for step in (*found.plan, Dense(classes)):
        if isinstance(step, Dense) and len(shape) > 1:
            layers.append({"type": "flatten"})
            shape = (math.prod(shape),)
        layer, shape = _layer(found.name, step, shape, tuple(input_shape))
        layers += [layer, {"type": "relu"}]
    return {"name": found.name, "input_shape": list(input_shape), "layers": layers[:-1]}


def _normalise(name: str, shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    if not len(mean) == len(std) == shape[0]:
        raise UsageError(f"architecture {name!r}: {len(mean)} means and {len(std)} deviations for {shape[0]} channels")
    if not all(value > 0 for value in std):
        raise UsageError(f"architecture {name!r}: every standard deviation must be positive, found {list(std)}")
    return {"type": "normalise", "mean": list(mean), "std": list(std)}


def _layer(
    name: str, step: Conv | Dense, shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """One layer's description and its output shape."""
    if isinstance(step, Dense):
        return {"type": "linear", "in": shape[0], "out": step.units}, (step.units,)
    if len(shape) != 3:
        raise UsageError(
            f"architecture {name!r} is convolutional and does not fit inputs {list(input_shape)}",
            "it needs images [channels, rows, columns]; fully connected ones fit all, e.g. fc1 or 2x100",
        )
    sides = tuple((side + 2 * step.padding - step.kernel) // step.stride + 1 for side in shape[1:])
    if min(sides) < 1:
        raise UsageError(
            f"architecture {name!r} does not fit inputs {list(input_shape)}: {step} meets {shape[1]}x{shape[2]}",
            "take an architecture with fewer strides, or larger inputs",
        )
    sizes = {"kernel": step.kernel, "stride": step.stride, "padding": step.padding}
    return {"type": "conv2d", "in": shape[0], "out": step.channels, **sizes}, (step.channels, *sides)


def hidden_units(name: str, input_shape: Sequence[int]) -> int:
    """Number of ReLUs N for that input shape.

    Raises:
        UsageError: when the architecture does not fit.
    """
    shape, count = tuple(input_shape), 0
    for step in architecture(name).plan:
        if isinstance(step, Dense):
            shape = (math.prod(shape),)
        shape = _layer(name, step, shape, tuple(input_shape))[1]
        count += math.prod(shape)
    return count


def recognise(layers: Sequence[dict[str, Any]], input_shape: Sequence[int], classes: int) -> str | None:
    """The name of the architecture with these layers (a normalisation in front does not count), if it has one."""
    wanted = [layer for layer in layers if layer["type"] != "normalise"]
    widths = [layer["out"] for layer in wanted if layer["type"] == "linear"][:-1]
    generic = [f"{len(widths)}x{widths[0]}"] if widths and len(set(widths)) == 1 else []
    named = [item.name for item in NAMED.values() if item.inputs in (None, tuple(input_shape))]
    for name in [*named, *generic]:
        try:
            if description(name, input_shape, classes)["layers"] == wanted:
                return name
        except UsageError:
            continue
    return None


def build(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    *,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Network:
    """A network of the named architecture with torch's default weights; see `description` for arguments and errors."""
    from robustcli.networks.network import Network

    return Network.from_description(description(name, input_shape, classes, normalise=normalise))


def catalogue(input_shape: Sequence[int] = (1, 28, 28)) -> list[dict[str, Any]]:
    """Rows for `robust model architectures`: name, layers in words, paper, hidden units for `input_shape` or null."""
    rows = []
    for item in NAMED.values():
        try:
            units: int | None = hidden_units(item.name, input_shape)
        except UsageError:
            units = None
        rows.append({"name": item.name, "layers": item.words, "paper": item.paper, "hidden_units": units})
    return rows
