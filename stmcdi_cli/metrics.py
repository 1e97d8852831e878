"""How close predictions come to hidden values, where that takes more than a line of `evaluate`.

All functions take the hidden entries alone, as vectors of equal length: ``truth`` t and ``predicted`` p.
"""

import numpy as np
from scipy.special import ndtr


def mae(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute error (eq. 28)."""
    return float(np.mean(np.abs(predicted - truth)))


def covered(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether each value lies within its interval."""
    return (low <= truth) & (truth <= high)


def coverage(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    """Share of values within their interval."""
    return float(np.mean(covered(low, high, truth)))


def crps_gaussian_each(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of N(mean, sd^2), closed form; the absolute error where sd is 0.

    Imputed values are not Gaussian (many are near zero): this scores the mean and sd that are reported, nothing more.
    """
    sd = np.maximum(sd, 1e-12)
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def crps_gaussian(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> float:
    """Mean of `crps_gaussian_each`."""
    return float(np.mean(crps_gaussian_each(mean, sd, truth)))


def pinball_each(quantiles: dict[float, np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Quantile loss, doubled and averaged over the quantiles: with all of them it would be the CRPS."""
    losses = [np.maximum(q * (truth - value), (q - 1) * (truth - value)) for q, value in quantiles.items()]
    return 2 * np.mean(losses, axis=0)


def pinball(quantiles: dict[float, np.ndarray], truth: np.ndarray) -> float:
    """Mean of `pinball_each`."""
    return float(np.mean(pinball_each(quantiles, truth)))
