"""Where the numbers are crunched."""

from __future__ import annotations

import torch

from robustcli.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")


def choose(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`; auto takes CUDA when there is some.

    TF32 is switched off, cuDNN's too (which is on by default): it keeps ten bits of every product.

    Raises:
        UsageError: for another name, or CUDA where there is none.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        raise UsageError(f"unknown device {name!r}", f"known: {', '.join(DEVICES)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", "use --device cpu; `robust env` shows what was found")
    return device
