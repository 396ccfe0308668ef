"""The allocator setting: applied on glibc, switchable."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = "from robustcli.allocator import keep_memory; print(keep_memory())"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_switch() -> None:
    for value, expected in (("system", {"False"}), ("", {"True", "False"})):
        done = subprocess.run(
            [sys.executable, "-c", CHECK], env={"ROBUST_MALLOC": value}, text=True, capture_output=True, check=True
        )
        assert done.stdout.strip() in expected
