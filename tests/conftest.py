"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


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
