"""What each data set is: shape, classes, scale, input box, split sizes and the papers' radii. Imports no torch.

A network sees the stored values divided by `scale`. Mean and standard deviation refer to those scaled values; they are
applied by a layer of the network where a recipe asks for it, never here.

Radii: Tables 1 of the papers 000 (l2, linf) and 001 (l1, l2, linf) for mnist, fashion-mnist, gtsrb and cifar10; 003 for
linf on svhn, har and toy-2d. Norms listed in `own_eps` appear in no paper: their radii are this project's choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from robustcli.errors import UnknownNameError, UsageError

SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
OWN_PREFIX = "npz:"


class Radii(dict[str, float]):
    """eps by norm; asking for a norm without one is a UsageError that says what to do."""

    def __missing__(self, norm: str) -> float:
        raise UsageError(
            f"the data set declares no {norm} radius", "give --eps, or put `eps` into dataset.json beside the npz files"
        )


@dataclass(frozen=True)
class Spec:
    """A data set as declared.

    Args:
        name: as in `robust data list`, or `npz:PATH`.
        title: one line for tables and documents.
        input_shape: of one point, channels first: (C, H, W), or (d,) for features.
        classes: labels are 0 .. classes - 1.
        box: (lower, upper) of every scaled coordinate, or None where inputs have no natural bounds.
        scale: stored value / scale = what the network sees (images 255, digits 16, features 1).
        mean, std: of the scaled training values, one per channel; None where none are in use.
        eps: radius per norm, in scaled units.
        own_eps: norms whose radius is this project's choice rather than a paper's.
        rows: official number of rows per split.
        class_names: one per class, or empty.
        licence: terms as stated by the authors.
        sources: where the data set comes from, first the authors.
        shipped: it is part of the package.
    """

    name: str
    title: str
    input_shape: tuple[int, ...]
    classes: int
    box: tuple[float, float] | None
    scale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    eps: Radii
    rows: dict[str, int]
    own_eps: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    licence: str = "not stated"
    sources: tuple[str, ...] = field(default=())
    shipped: bool = False

    @property
    def dimension(self) -> int:
        """Number of input coordinates d."""
        size = 1
        for extent in self.input_shape:
            size *= extent
        return size


UNIT = (0.0, 1.0)
DIGIT_NAMES = tuple("0123456789")

SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            name="digits",
            title="UCI optical digits 8x8, shipped with the package",
            input_shape=(1, 8, 8),
            classes=10,
            box=UNIT,
            scale=16.0,
            mean=(0.3059,),
            std=(0.3755,),
            eps=Radii(l1=0.6, l2=0.3, linf=0.1),
            own_eps=("l1", "l2", "linf"),
            rows={"train": 1297, "test": 500},
            class_names=DIGIT_NAMES,
            licence="CC BY 4.0",
            sources=("https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",),
            shipped=True,
        ),
        Spec(
            name="mnist",
            title="MNIST handwritten digits",
            input_shape=(1, 28, 28),
            classes=10,
            box=UNIT,
            scale=255.0,
            mean=(0.1307,),
            std=(0.3081,),
            eps=Radii(l1=1.0, l2=0.3, linf=0.1),
            rows={"train": 60_000, "test": 10_000},
            class_names=DIGIT_NAMES,
            licence="LeCun, Cortes, Burges; commonly cited as CC BY-SA 3.0",
            sources=("http://yann.lecun.com/exdb/mnist/",),
        ),
        Spec(
            name="fashion-mnist",
            title="Fashion-MNIST, Zalando's article images",
            input_shape=(1, 28, 28),
            classes=10,
            box=UNIT,
            scale=255.0,
            mean=(0.2860,),
            std=(0.3530,),
            eps=Radii(l1=1.0, l2=0.3, linf=0.1),
            rows={"train": 60_000, "test": 10_000},
            class_names=(
                "T-shirt/top", "trouser", "pullover", "dress", "coat",
                "sandal", "shirt", "sneaker", "bag", "ankle boot",
            ),
            licence="MIT",
            sources=("https://github.com/zalandoresearch/fashion-mnist",),
        ),
        Spec(
            name="cifar10",
            title="CIFAR-10 natural images",
            input_shape=(3, 32, 32),
            classes=10,
            box=UNIT,
            scale=255.0,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),  # as in 002 and 004; the pixels' own deviation is .2470 .2435 .2616
            eps=Radii(l1=2.0, l2=0.1, linf=2 / 255),
            rows={"train": 50_000, "test": 10_000},
            class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            licence="not stated; cite Krizhevsky 2009",
            sources=("https://www.cs.toronto.edu/~kriz/cifar.html",),
        ),
        Spec(
            name="svhn",
            title="Street View House Numbers, cropped digits",
            input_shape=(3, 32, 32),
            classes=10,
            box=UNIT,
            scale=255.0,
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
            eps=Radii(l1=2.0, l2=0.1, linf=0.01),
            own_eps=("l1", "l2"),
            rows={"train": 73_257, "test": 26_032},
            class_names=DIGIT_NAMES,
            licence="for non-commercial use; cite Netzer et al. 2011",
            sources=("http://ufldl.stanford.edu/housenumbers/",),
        ),
        Spec(
            name="gtsrb",
            title="German traffic signs, whole image resized to 32x32",
            input_shape=(3, 32, 32),
            classes=43,
            box=UNIT,
            scale=255.0,
            mean=(0.3403, 0.3121, 0.3214),
            std=(0.2724, 0.2608, 0.2669),
            eps=Radii(l1=3.0, l2=0.2, linf=4 / 255),
            rows={"train": 39_209, "test": 12_630},
            class_names=(
                "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70",
                "speed limit 80", "end of speed limit 80", "speed limit 100", "speed limit 120", "no passing",
                "no passing over 3.5 t", "right of way at next crossing", "priority road", "yield", "stop",
                "no vehicles", "no vehicles over 3.5 t", "no entry", "general caution", "dangerous curve left",
                "dangerous curve right", "double curve", "bumpy road", "slippery road", "road narrows on the right",
                "road work", "traffic signals", "pedestrians", "children crossing", "bicycles crossing",
                "beware of ice or snow", "wild animals crossing", "end of all limits", "turn right ahead",
                "turn left ahead", "ahead only", "straight or right", "straight or left", "keep right", "keep left",
                "roundabout mandatory", "end of no passing", "end of no passing over 3.5 t",
            ),
            licence="INI Bochum, free to use; cite Stallkamp et al. 2012",
            sources=("https://benchmark.ini.rub.de/gtsrb_dataset.html",),
        ),
        Spec(
            name="har",
            title="Human activity from smartphone sensors, 561 features",
            input_shape=(561,),
            classes=6,
            box=None,
            scale=1.0,
            mean=None,
            std=None,
            eps=Radii(l1=0.5, l2=0.15, linf=0.05),
            own_eps=("l1", "l2"),
            rows={"train": 7352, "test": 2947},
            class_names=("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying"),
            licence="CC BY 4.0 (UCI); the archive's README asks for citation and excludes commercial use",
            sources=("https://archive.ics.uci.edu/dataset/240/human+activity+recognition+using+smartphones",),
        ),
        Spec(
            name="toy-2d",
            title="The 12 points in the plane of 003 (Fig. 3), training and test points in one",
            input_shape=(2,),
            classes=2,
            box=None,
            scale=1.0,
            mean=None,
            std=None,
            eps=Radii(l1=0.16, l2=0.12, linf=0.08),
            own_eps=("l1", "l2"),
            rows={"train": 12, "test": 12},
            licence="none needed: random numbers",
            sources=("https://arxiv.org/abs/1711.00851",),
            shipped=True,
        ),
    )
}  # fmt: skip


def names() -> list[str]:
    """The named data sets, in the order of `robust data list`."""
    return list(SPECS)


def spec(name: str) -> Spec:
    """The declaration of a named data set, or of the user's own `npz:PATH`.

    Raises:
        UnknownNameError: for an unknown name.
        DataError: when `npz:PATH` holds no usable arrays.
    """
    if name.startswith(OWN_PREFIX):
        from robustcli.data.own import own_spec

        return own_spec(name)
    if name not in SPECS:
        raise UnknownNameError("data set", name, SPECS, "your own arrays: npz:PATH")
    return SPECS[name]
