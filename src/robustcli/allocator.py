"""Keep freed memory instead of giving it back to the system after every tensor (glibc only).

Large tensors are otherwise mapped and unmapped again and again, and every page is faulted in anew: that costs the
bounds a third of their time (benchmarks/README.md). Switched off by ROBUST_MALLOC=system.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # <malloc.h>
LARGEST = 2**31 - 1
PAD = 256 * 2**20


def keep_memory() -> bool:
    """Apply the setting to this process; whether it was applied."""
    if os.environ.get("ROBUST_MALLOC") == "system" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, PAD))
    return all(mallopt(option, value) == 1 for option, value in settings)
