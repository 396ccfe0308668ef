"""robustcli: train, attack, certify and exactly verify provably robust ReLU classifiers.

    import robustcli as robust

    answer = robust.certify(model, images, labels, norm="linf", eps="8/255", box=(0, 1), complete=True, time_limit=10)

Names are imported when they are first used: importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcli.errors import RobustError
    from robustcli.library.conversion import convert
    from robustcli.library.frames import Normalised
    from robustcli.library.questions import attack, certify, distance
    from robustcli.library.storage import load, save

__version__ = "0.1.0"

__all__ = ["Normalised", "RobustError", "attack", "certify", "convert", "distance", "load", "save"]

_HOMES = {
    "Normalised": "library.frames",
    "RobustError": "errors",
    "attack": "library.questions",
    "certify": "library.questions",
    "convert": "library.conversion",
    "distance": "library.questions",
    "load": "library.storage",
    "save": "library.storage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
