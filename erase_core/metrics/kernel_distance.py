"""General quality: the kernel distance (KID) between the features of two models' images, or of a model's and real ones."""

from __future__ import annotations

import numpy as np
import torch

SUBSETS = 100
SUBSET_SIZE = 100


def kernel_distance(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> float:
    """The mean kernel distance over random subsets of features [N, d] and [M, d].

    The unbiased squared maximum mean discrepancy under the kernel (⟨x, y⟩ / d + 1)³ (Bińkowski et al., ICLR 2018); about 0
    for images of one distribution, and a little below by chance. Raises ValueError for fewer than two images.
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
