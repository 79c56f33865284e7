"""General quality: the kernel distance (KID) between the features of two models' images, or of a model's and real ones."""

from __future__ import annotations

import numpy as np
import torch

SUBSETS = 100
SUBSET_SIZE = 100


def kernel_distance(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> float:
    """The mean kernel distance over random subsets of features [N, d] and [M, d].

    The squared maximum mean discrepancy under the kernel k(x, y) = (⟨x, y⟩ / d + 1)³ (Bińkowski et al., ICLR 2018), unbiased for
    sets drawn apart from each other. Rows that belong together, as images of one prompt and seed do, meet in 1 of N pairs
    across, and take (2 / N) (mean k(x_i, y_i) − mean k(x_i, y_j), i ≠ j) off it: equal sets come out that far below 0.
    Raises ValueError for fewer than two images.
    """
    from torchmetrics.image.kid import poly_mmd

    size = min(SUBSET_SIZE, len(first), len(second))
    if size < 2:
        raise ValueError("a kernel distance needs at least two images of each model")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SUBSETS):
        a, b = (torch.from_numpy(part[rng.choice(len(part), size, replace=False)]).double() for part in (first, second))
        found.append(float(poly_mmd(a, b)))
    return float(np.mean(found))
