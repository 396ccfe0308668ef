"""Which of our attacks stands beside which public ones, with the same number of steps; and on which networks.

Where an attack does not exist yet or does not know a norm, its row is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pair:
    """One of our attacks and the public ones it is compared with.

    Args:
        label: how the row is called in results.
        ours: name in `robustcli.attacks.registry` or an ensemble.
        options: its settings, where they are not the default.
        peers: names in `attack_peers.PEERS`.
        steps: what the peers are given: gradient steps of a run, or of all searches together (CW, EAD).
    """

    label: str
    ours: str
    options: dict[str, Any] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    steps: int = 100


ONE = {"restarts": 1}

RADIUS = (
    Pair("FGSM", "fgsm", {}, ("torchattacks FGSM", "foolbox FGM"), 1),
    Pair(
        "PGD",
        "pgd",
        {**ONE, "step": 2.5},
        ("torchattacks PGD", "torchattacks PGDL2", "foolbox PGD", "adv_lib PGD"),
    ),
    Pair("APGD-CE", "apgd-ce", ONE, ("autoattack APGD-CE", "autoattack APGD-CE, large radii", "torchattacks APGD")),
    Pair("APGD-DLR", "apgd-dlr", ONE, ("autoattack APGD-DLR", "adv_lib APGD-DLR")),
    Pair("APGD-margin", "apgd-margin", ONE),
    Pair("APGD-T", "apgd-t", {}, ("autoattack APGD-T", "autoattack APGD-T, large radii")),
    Pair("APGD-T, DLR", "apgd-t-dlr", {}, ("autoattack APGD-T", "autoattack APGD-T, large radii")),
    Pair("APGD-wide", "apgd-wide", {}),
    Pair("relaxation", "relaxation"),
    Pair("standard", "standard", {}, ("autoattack standard",)),
)
"""Any misclassified point of a ball."""

NEAREST = (
    Pair("FAB", "fab", {"restarts": 1, "targets": 0}, ("autoattack FAB",)),
    Pair("FAB-T", "fab", {"restarts": 0, "targets": 9}, ("autoattack FAB-T",)),
    Pair("DDN", "ddn", {"steps": 200}, ("foolbox DDN", "adv_lib DDN"), 200),
    Pair("FMN", "fmn", {"steps": 200}, ("foolbox FMN", "adv_lib FMN"), 200),
    Pair("FMN, first step 10", "fmn", {"steps": 200, "step_size": 10}, ("adv_lib FMN, first step 10",), 200),
    Pair("PDPGD", "pdpgd", {"steps": 300}, ("adv_lib PDPGD",), 300),
    Pair("CW", "carlini-wagner", {"searches": 9, "steps": 1000}, ("foolbox CW", "adv_lib CW"), 9000),
    Pair(
        "CW, rate 0.1",
        "carlini-wagner",
        {"searches": 9, "steps": 100, "rate": 0.1},
        ("foolbox CW, rate 0.1", "adv_lib CW, rate 0.1"),
        900,
    ),
    Pair("EAD", "ead", {"searches": 9, "steps": 100}, ("foolbox EAD",), 900),
    Pair(
        "EAD, l1 weight 0.001",
        "ead",
        {"searches": 9, "steps": 100, "sparsity": 0.001},
        ("torchattacks EADL1",),
        900,
    ),
    Pair("linear region", "linear-region"),
    Pair("polished", "polished"),
    Pair("nearest", "nearest", {}, ("adv_lib ALMA",), 300),
)
"""The nearest misclassified point."""


@dataclass(frozen=True)
class Question:
    """A network, a norm and a radius; `complete`: points are decided by `certify` before the attacks, which pays where
    most are robust."""

    net: str
    norm: str
    eps: float
    complete: bool = True


L1, L2, LINF = ("l1", 1.0), ("l2", 0.3), ("linf", 0.1)
SHIPPED = ("mnist-cnn-mmr-universal", "mnist-fc1-mmr-l2", "mnist-cnn-mtl-ibp-union")
QUESTIONS = (
    Question("kw_mnist", "linf", 0.1),
    Question("kw_mnist", "linf", 0.15, complete=False),
    Question("kw_mnist", "l2", 0.8, complete=False),
    Question("kw_mnist", "l1", 3, complete=False),
    Question("colt_mnist_0.1", "linf", 0.1),
    Question("colt_mnist_0.1", "l2", 1, complete=False),
    Question("colt_mnist_0.1", "l1", 5, complete=False),
    Question("sdp_mnist_cnn_a_adv", "linf", 0.15, complete=False),
    Question("sdp_mnist_cnn_a_adv", "l2", 1, complete=False),
    Question("sdp_mnist_cnn_a_adv", "l1", 5, complete=False),
    *(Question(net, *ball) for net in SHIPPED for ball in (LINF, L2, L1)),
)
NORMS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
