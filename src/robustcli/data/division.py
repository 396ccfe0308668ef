"""Which training rows are kept out of training, to choose settings by.

The last ones, where labels come in no order. GTSRB stores one class after another, labels ascending: there the last
rows would be a few classes that training then never sees, so every class gives its own last rows.
Frames of one filmed sign follow each other in GTSRB, and so stay together, but for one sign a class.
"""

from __future__ import annotations

import numpy as np


def divided(labels: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows kept out.

    Args:
        labels: of the training split, [n] int64.
        kept: how many are kept out, 0 to n.
    Returns:
        [n - kept] int64, ascending, and [kept] int64, of which every beginning holds the classes in proportion.
    """
    rows = np.arange(len(labels))
    if np.any(np.diff(labels) < 0):
        return rows[: len(rows) - kept], rows[len(rows) - kept :]
    # Share of its class from each row to the class's end: the last rows of all classes come first.
    starts = np.searchsorted(labels, labels)
    ends = np.searchsorted(labels, labels, side="right")
    order = np.argsort((ends - rows - 0.5) / (ends - starts), kind="stable")
    return np.sort(order[kept:]), order[:kept]
