"""Settings of torch that make a training repeatable."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def repeatable(device: torch.device, threads: int) -> Iterator[None]:
    """Deterministic algorithms, full float32 and a fixed number of threads inside the block; then as before.

    On the CPU equal inputs give equal bits. On CUDA the few operations without a deterministic form are let through.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )
    on_cuda = device.type == "cuda"
    torch.use_deterministic_algorithms(True, warn_only=on_cuda)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    try:
        with warnings.catch_warnings():
            if on_cuda:
                warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.set_num_threads(before[3])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[4], before[5]
