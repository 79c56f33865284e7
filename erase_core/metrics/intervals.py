"""95 % confidence intervals of a mean and of a share."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
UPPER = (1 + LEVEL) / 2
DRAWN_TOGETHER = 2**20
"""Values of resamples that are held at once."""


def mean_interval(
    values: np.ndarray, clusters: np.ndarray | None = None, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean of values [N] and its percentile bootstrap interval; of one value NaN, since nothing says how others would lie.

    With `clusters` [N] (the concept of each value) whole clusters are resampled, since images of one concept stand or fall
    together; with a single cluster the values themselves are.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    if len(values) == 1:
        return float(values[0]), math.nan, math.nan
    _, member = np.unique(clusters, return_inverse=True) if clusters is not None else (None, np.arange(len(values)))
    if member.max() == 0:
        member = np.arange(len(values))
    sums, sizes = np.bincount(member, values), np.bincount(member)
    rng, together, means = np.random.default_rng(seed), max(1, DRAWN_TOGETHER // len(sums)), []
    for start in range(0, resamples, together):
        draws = rng.integers(len(sums), size=(min(together, resamples - start), len(sums)))
        means.append(sums[draws].sum(1) / sizes[draws].sum(1))
    low, high = np.quantile(np.concatenate(means), [1 - UPPER, UPPER])
    return float(values.mean()), float(low), float(high)


def clustered_share(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """The mean of values [N] of 0 and 1, and the interval of the share that other clusters would have (Korn and Graubard, 1998).

    Wilson's, with the trials that N values of k clusters are worth: N / deff · (t_{N-1} / t_{k-1})², where deff ≥ 1 is the
    variance of the mean by clusters over that of N independent values, and no fewer than k. With one cluster, N.
    """
    values = np.asarray(values, dtype=np.float64)
    _, member = np.unique(clusters, return_inverse=True)
    count, total, mean = int(member.max()) + 1, len(values), float(values.mean())
    if count == 1:
        return wilson(mean, total)
    apart = np.bincount(member, values - mean)
    variance = count / (count - 1) * float(apart @ apart) / total**2
    independent = mean * (1 - mean) / total
    effect = max(1.0, variance / independent) if independent > 0 else 1.0
    fewer = (t.ppf(UPPER, total - 1) / t.ppf(UPPER, count - 1)) ** 2
    return wilson(mean, max(total / effect * fewer, count))


def share_interval(count: int, total: int) -> tuple[float, float, float]:
    """The share count / total and its Wilson score interval, which has a width at 0 and 1 too."""
    return wilson(count / total, total)


def wilson(share: float, trials: float) -> tuple[float, float, float]:
    """A share and its Wilson score interval, of any number of trials above 0."""
    z = norm.ppf(UPPER)
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return share, max(0.0, float(middle - half)), min(1.0, float(middle + half))
