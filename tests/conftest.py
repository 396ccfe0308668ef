"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples on every machine, so that a red test says something about the change at hand; `make test-search`
# draws new ones.
settings.register_profile("steady", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small nets: threads only cost time, and one thread keeps sums in one order."""
    torch.set_num_threads(1)


@pytest.fixture
def real_data() -> Path:
    """Folder with the official data files, from ROBUST_TEST_DATA; the test is skipped without it."""
    folder = os.environ.get("ROBUST_TEST_DATA")
    if not folder:
        pytest.skip("set ROBUST_TEST_DATA to a folder with the data sets to run this test")
    return Path(folder)
