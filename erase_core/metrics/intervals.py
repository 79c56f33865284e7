"""Confidence intervals of a mean and of a share."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest


def mean_interval(
    values: np.ndarray, clusters: np.ndarray | None = None, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """The mean of values [N] and its percentile bootstrap interval.

    With `clusters` [N] (the concept of each value) whole clusters are resampled, since images of one concept stand or fall
    together; with a single cluster the values themselves are.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    _, member = np.unique(clusters, return_inverse=True) if clusters is not None else (None, np.arange(len(values)))
    if member.max() == 0:
        member = np.arange(len(values))
    sums, sizes = np.bincount(member, values), np.bincount(member)
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def interval_of_share(
    values: np.ndarray, clusters: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean of values [N] of 0 and 1 and its 95 % interval: of one cluster Wilson's, of several the bootstrap's over them.

    Where all clusters have the same share the bootstrap's has no width; then Wilson's, with as many trials as clusters.
    """
    count = len(np.unique(clusters))
    if count == 1:
        return share_interval(int(values.sum()), len(values))
    mean, low, high = mean_interval(values, clusters, resamples=resamples, seed=seed)
    if low == high:
        _, low, high = share_interval(round(mean * count), count)
    return mean, low, high


def share_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float, float]:
    """The share count / total and its Wilson score interval, which has a width at 0 and 1 too."""
    found = binomtest(count, total).proportion_ci(level, method="wilson")
    return count / total, float(found.low), float(found.high)
