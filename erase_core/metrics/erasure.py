"""ESR-k and PSR-k: does the judge still see the erased concepts, and does it still see the others?"""

from __future__ import annotations

import numpy as np

TOP = 5
"""The largest k."""


def sees(top_labels: list[list[str]], wanted: list[set[str]], k: int) -> np.ndarray:
    """Whether any wanted label is among each image's k likeliest ones; bool [N]."""
    return np.array(
        [not names.isdisjoint(labels[:k]) for labels, names in zip(top_labels, wanted, strict=True)], dtype=bool
    )
