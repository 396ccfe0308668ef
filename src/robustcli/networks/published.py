"""Networks their authors released: official addresses at a pinned commit, sha256, and the figures printed for them.

Imports no torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from robustcli.data.sources import ENVIRONMENT
from robustcli.errors import CheckpointError, UnknownNameError
from robustcli.files import sha256
from robustcli.networks.origin import Origin


@dataclass(frozen=True)
class Published:
    """One released file.

    Args:
        title: what it is, one line.
        repository, commit, path: where the authors keep it.
        sha256: of the file.
        dataset, architecture: by this program's names.
        norm, eps: what it was trained against.
        licence: of the authors' repository.
        figures: printed figures, fractions; `clean_error` on the whole test split, `robust_error` a proved upper bound.
        where: where they are printed.
    """

    name: str
    title: str
    repository: str
    commit: str
    path: str
    sha256: str
    dataset: str
    architecture: str
    norm: str
    eps: float
    licence: str
    figures: dict[str, float] = field(default_factory=dict)
    where: str | None = None

    @property
    def url(self) -> str:
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"

    @property
    def file_name(self) -> str:
        """The file's name in the cache."""
        return self.name + Path(self.path).suffix

    @property
    def origin(self) -> Origin:
        source = f"github:{self.repository}@{self.commit[:7]} {self.path}"
        return Origin(
            self.name,
            self.dataset,
            source,
            self.sha256,
            self.licence,
            self.norm,
            self.eps,
            self.figures,
            self.where,
        )


_KW = ("locuslab/convex_adversarial", "2cd8149249b9e90383af10fc7e9b9fe90166813e")
_COLT = ("eth-sri/colt", "155616778d238f31135112b16ca8db6bff2cdc50")
_CROWN = ("Verified-Intelligence/alpha-beta-CROWN", "8250d5fbd530c76e5e3243db28b3cad5fbaef740")

PUBLISHED = {
    item.name: item
    for item in (
        Published(
            "kw_mnist",
            "small CNN, KW-trained (003)",
            *_KW,
            "models/mnist.pth",
            "95014ab0c04c73f48b3be0cb7acc42aff60ce4420c6c43bec25e9a1447279e08",
            "mnist",
            "cnn",
            "linf",
            0.1,
            "MIT",
            {"clean_error": 0.0180, "pgd_error": 0.0411, "robust_error": 0.0582},
            "003 Table 1",
        ),
        Published(
            "kw_fashion",
            "small CNN, KW-trained (003)",
            *_KW,
            "models/fashion_mnist.pth",
            "b90cca41cc42b427d5ba1d1c10d90a5a8b6b5219538a3a4d1c6f825d3f612bc5",
            "fashion-mnist",
            "cnn",
            "linf",
            0.1,
            "MIT",
            {"clean_error": 0.2173, "pgd_error": 0.3163, "robust_error": 0.3453},
            "003 Table 1",
        ),
        Published(
            "kw_svhn",
            "small CNN, KW-trained (003)",
            *_KW,
            "models/svhn.pth",
            "c357ed5e96a488f73a5d134a017a2aafaf657218bcd119d383a19575569f6886",
            "svhn",
            "cnn",
            "linf",
            0.01,
            "MIT",
        ),
        Published(
            "kw_har",
            "561-500-6, KW-trained (003)",
            *_KW,
            "models/har.pth",
            "5a5ebb30681ae35fd87d3f2291a208f8380956700f1905bba8306ae5764bcb8e",
            "har",
            "har",
            "linf",
            0.05,
            "MIT",
        ),
        Published(
            "colt_mnist_0.1",
            "ConvMed, COLT-trained (002)",
            *_COLT,
            "trained_models/mnist_0.1_convmed_flat_2_2_100.pt",
            "429d594e0486a14b6beb9cbd8d296a1988e75839c5e2cc4e4d45b7c327b7d25e",
            "mnist",
            "convmed-2-2-100",
            "linf",
            0.1,
            "Apache-2.0",
            {"clean_error": 0.008, "robust_error": 0.029},
            "002 Table 9",
        ),
        Published(
            "sdp_mnist_cnn_a_adv",
            "small CNN, adversarially trained (SDP verification benchmark)",
            *_CROWN,
            "complete_verifier/models/sdp/mnist_cnn_a_adv.model",
            "3a1dbfc656e45be2cf6e8ae709c43da0fa0f3b71762c8a0842df72868f2b3459",
            "mnist",
            "cnn",
            "linf",
            0.3,
            "BSD-3-Clause",
        ),
    )
}


def names() -> list[str]:
    """The published networks that `robust model fetch` knows."""
    return list(PUBLISHED)


def published(name: str) -> Published:
    """One published network.

    Raises:
        UnknownNameError: with the nearest name.
    """
    if name not in PUBLISHED:
        raise UnknownNameError("published model", name, PUBLISHED, "your own file: robust model import PATH")
    return PUBLISHED[name]


def by_sha256(digest: str | None) -> Published | None:
    """The published network whose released file has this sha256."""
    return next((item for item in PUBLISHED.values() if item.sha256 == digest), None)


def folders() -> list[Path]:
    """Where released files are looked for and put: $ROBUST_DATA_DIR/models if that is set, then the user's cache."""
    named = os.environ.get(ENVIRONMENT)
    cache = platformdirs.user_cache_path("robustcli", appauthor=False) / "models"
    return [*([Path(named).expanduser() / "models"] if named else []), cache]


def local_file(item: Published) -> Path | None:
    """The released file if it is there, under this program's name or its own.

    Raises:
        CheckpointError: when a file is there but is not the released one.
    """
    for folder in folders():
        for name in (item.file_name, Path(item.path).name):
            path = folder / name
            if not path.is_file():
                continue
            if sha256(path) == item.sha256:
                return path
            if name == item.file_name:
                raise CheckpointError(
                    f"{path} is not the released file: its sha256 differs", "remove it and fetch again"
                )
    return None


def fetch(name: str) -> tuple[Path, bool]:
    """The authors' file of a published network, downloaded unless it is there.

    Returns:
        the file, checked against its sha256, and whether it was downloaded now.
    Raises:
        UnknownNameError: for an unknown name.
        CheckpointError: offline, or the file differs from the pinned one.
    """
    item = published(name)
    found = local_file(item)
    if found is not None:
        return found, False
    return _download(item), True


def _download(item: Published) -> Path:
    """Download into the first folder that can be written, in one step."""
    import pooch
    import requests

    last: Exception | None = None
    pooch.get_logger().setLevel("ERROR")
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = pooch.retrieve(item.url, f"sha256:{item.sha256}", item.file_name, folder)
            return Path(file)
        except requests.RequestException as error:
            last = error
            break
        except ValueError as error:  # pooch's word for another checksum; it keeps no such file
            raise CheckpointError(
                f"{item.url} is not the file of sha256 {item.sha256}", "the address changed or was tampered with"
            ) from error
        except OSError as error:
            last = error
    reason = type(last).__name__ if isinstance(last, requests.RequestException) else str(last)
    raise CheckpointError(
        f"cannot download {item.name} ({reason})",
        f"get {item.url}\n    put it at {folders()[0] / item.file_name}"
        f"\n    and run `robust model fetch {item.name}` again",
    )
