"""FID: the Fréchet distance between two sets of features, each taken as a normal distribution (Heusel et al., NeurIPS 2017)."""

from __future__ import annotations

import numpy as np
import scipy.linalg


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of features [N, d] and [M, d]; 0 for equal sets.

    It is biased upwards for few images: the field uses 10,000 or more. Raises ValueError for fewer than two.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a Fréchet distance needs at least two images of each model")
    a, b = (np.asarray(part, dtype=np.float64) for part in (first, second))
    cov_a, cov_b = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b))
    # The product's eigenvalues are those of a symmetric matrix, so real and not negative but for rounding.
    roots = np.sqrt(np.clip(scipy.linalg.eigvals(cov_a @ cov_b).real, 0, None))
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum()
    return float(max(distance, 0.0))
