"""Where the training code of 000 departs from the exact norms of rows. Never used in certificates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """How norms of rows are taken in training.

    Args:
        stabiliser: v -> v + stabiliser where |v| < stabiliser, on all rows above the first layer (the code of 000 has
            1e-5 for convolutional networks, so that no norm is near zero; entries beyond a unit's reach included).
        full_filter: the first layer's units at a padded border count their whole filter, though part of it meets no
            pixel (the code of 000); else the part inside the image.
    """

    stabiliser: float = 0.0
    full_filter: bool = False


EXACT = Convention()
