"""How close predictions come to hidden values (paper, eq. 25-28, and what they leave open).

All functions take the hidden entries alone, as vectors of equal length: ``truth`` t and ``predicted`` p.
"""

import numpy as np
from scipy.special import ndtr


def pcc(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation (eq. 25); 0 where either is constant."""
    p, t = predicted - predicted.mean(), truth - truth.mean()
    return cosine_similarity(p, t) if p.any() and t.any() and np.ptp(predicted) > 0 and np.ptp(truth) > 0 else 0.0


def cosine_similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Cosine of the angle between both vectors (eq. 26); 0 where either is zero everywhere."""
    return float(predicted @ truth / (np.linalg.norm(predicted) * np.linalg.norm(truth) + 1e-12))


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared error (eq. 27)."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def mae(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute error (eq. 28)."""
    return float(np.mean(np.abs(predicted - truth)))


def skill(predicted: np.ndarray, truth: np.ndarray, guess: np.ndarray) -> float:
    """1 - MSE / MSE of a trivial guess: 0 is no better than the guess, 1 is perfect; NaN where the guess is."""
    trivial = np.mean((guess - truth) ** 2)
    return float(1 - np.mean((predicted - truth) ** 2) / trivial) if trivial > 0 else float("nan")


def coverage(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    """Share of values within their interval."""
    return float(np.mean((low <= truth) & (truth <= high)))


def crps_gaussian(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> float:
    """Mean continuous ranked probability score of N(mean, sd^2), closed form; the absolute error where sd is 0.

    Imputed values are not Gaussian (many are near zero): this scores the mean and sd that are reported, nothing more.
    """
    sd = np.maximum(sd, 1e-12)
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return float(np.mean(sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))))


def pinball(quantiles: dict[float, np.ndarray], truth: np.ndarray) -> float:
    """Mean quantile loss, doubled and averaged over the quantiles: with all of them it would be the CRPS."""
    losses = [np.mean(np.maximum(q * (truth - value), (q - 1) * (truth - value))) for q, value in quantiles.items()]
    return float(2 * np.mean(losses))
