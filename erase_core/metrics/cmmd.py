"""CMMD: the maximum mean discrepancy of CLIP features under a Gaussian kernel (Jayasumana et al., CVPR 2024)."""

from __future__ import annotations

import numpy as np

BANDWIDTH = 10.0
"""σ of the kernel exp(−‖x − y‖² / 2σ²)."""
SCALE = 1000.0
BLOCK = 4096


def mean_kernel(first: np.ndarray, second: np.ndarray) -> float:
    """The kernel's mean over all pairs of rows of [N, d] and [M, d], a block of rows at a time."""
    total, norms = 0.0, (second**2).sum(1)
    for start in range(0, len(first), BLOCK):
        part = first[start : start + BLOCK]
        squared = (part**2).sum(1)[:, None] + norms[None] - 2 * part @ second.T
        total += np.exp(-squared / (2 * BANDWIDTH**2)).sum()
    return total / (len(first) * len(second))


def cmmd(first: np.ndarray, second: np.ndarray) -> float:
    """1000 (E k(x, x') + E k(y, y') − 2 E k(x, y)) of features [N, d] and [M, d], scaled to unit length; 0 for equal sets.

    The means are over all pairs, as published, so that the estimate is biased a little upwards.
    """
    unit = [np.asarray(part, dtype=np.float64) for part in (first, second)]
    a, b = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in unit)
    return float(SCALE * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)))
