"""Negative binomial counts: quantiles, and the log-probability; variance = mean + dispersion * mean^2, 0 is Poisson."""

import numpy as np
from scipy.special import gammaincinv, gammaln

_LARGE_MEAN = 60.0
_MOST_TERMS = 5000


def count_quantile(u: np.ndarray, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Smallest counts whose cumulative negative binomial probability exceeds `u`; all [n], dispersion 0 is Poisson.

    Small counts are found by adding up probabilities, and most entries need one or two of them; large counts use the
    gamma distribution of the same mean and variance.
    """
    count = np.zeros(len(u))
    large = mean > _LARGE_MEAN
    if large.any():
        # Half a count is added, because a gamma variable rounded down is half a count too small on average.
        variance = mean[large] * (1 + dispersion[large] * mean[large])
        shape = mean[large] ** 2 / variance
        count[large] = np.floor(gammaincinv(shape, u[large]) * variance / mean[large] + 0.5)
    left = np.flatnonzero(~large & (u >= 1 - mean))  # 0 has a probability of 1 - mean or more: most need no other look
    u, mean, dispersion = u[left], mean[left], dispersion[left]
    spread = dispersion * mean
    with np.errstate(divide="ignore", invalid="ignore"):
        probability = np.exp(np.where(dispersion > 0, -np.log1p(spread) / dispersion, -mean))  # of no count
    ratio = mean / (1 + spread)
    cumulative = probability.copy()
    k = 0
    while True:
        unfinished = u >= cumulative
        if not unfinished.any() or k >= _MOST_TERMS:
            break
        left, u, cumulative = left[unfinished], u[unfinished], cumulative[unfinished]
        dispersion, ratio, probability = dispersion[unfinished], ratio[unfinished], probability[unfinished]
        probability = probability * ratio * (1 + dispersion * k) / (k + 1)
        cumulative += probability
        k += 1
        count[left] = k
    return count


def log_probability(counts: np.ndarray, mean: np.ndarray, dispersion: np.ndarray | float) -> np.ndarray:
    """Log-probability of counts [n] of these means [n]; the dispersion is that of all, or of each [n]."""
    mean, dispersion = np.maximum(mean, 1e-12), np.asarray(dispersion, np.float64)
    poisson = dispersion == 0
    size = 1 / np.where(poisson, 1, dispersion)
    spread = np.log1p(mean * dispersion)
    out = np.where(poisson, -mean, -size * spread)
    some = counts > 0  # most entries are 0 and need no other term
    n, mean, spread = counts[some], mean[some], spread[some]
    size, poisson = (part[some] if part.ndim else part for part in (size, poisson))
    with_spread = gammaln(n + size) - gammaln(size) + n * (np.log(mean / size) - spread)
    out[some] += np.where(poisson, n * np.log(mean), with_spread) - gammaln(n + 1)
    return out
