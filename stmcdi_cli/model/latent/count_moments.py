"""Counting noise: moments of a Poisson or negative binomial count on the scale of the expression.

In a spot of depth s (size factor), a gene of mean count mu has the expression x = g(count, s), for instance
log1p(count / s). Its mean and variance have no closed form, but they are smooth in (log s, log mu): they are tabulated
once, then interpolated.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import betainc, pdtr

from stmcdi_cli.model.latent.blocks import parts_in_cache
from stmcdi_cli.model.scales import SCALES, SHALLOWEST

DISPERSIONS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Negative binomial dispersions a gene may have: variance = mu + dispersion * mu^2; 0 is Poisson."""

_EXACT_COUNTS = 256
_LARGE_STEP = 1.01
"""Width of the bins of larger counts, as a ratio."""
_DEPTH_STEP, _MEAN_STEP = 0.04, 0.08
"""Steps of the table in log depth and log mean."""
_INVERSE_GRID = 1024
"""Points of the tables that give the mean count from the mean of x."""


def _grid(low: float, high: float, step: float) -> np.ndarray:
    """Multiples of a step that cover a range.

    Ranges that overlap share their points: one very shallow or deep spot changes nothing for the others.
    """
    return step * np.arange(np.floor(low / step), np.floor(high / step) + 2)


class CountTable:
    """Mean and variance of x = g(count, s) for counts of one dispersion.

    Parameters
    ----------
    scale
        A name in `SCALES`.
    dispersion
        Negative binomial dispersion; 0 is Poisson.
    size_factor
        Depths of the spots.
    max_mean
        Largest mean count in the table.
    """

    def __init__(self, scale: str, dispersion: float, size_factor: np.ndarray, max_mean: float) -> None:
        low, high = np.log(np.maximum([size_factor.min(), size_factor.max()], SHALLOWEST))
        self.log_s, self.step = _grid(low, high, _DEPTH_STEP), _MEAN_STEP
        self.log_mu = _grid(np.log(1e-9), np.log(max(max_mean, 1.0)), self.step)
        # Every small count by itself; of the large ones, bins a hundredth wide.
        most = max(max_mean, 1.0) * (20 if dispersion == 0 else 20 + 20 * dispersion)
        n_bins = int(np.ceil(np.log(max(most / _EXACT_COUNTS, 2)) / np.log(_LARGE_STEP)))
        large = np.unique((_EXACT_COUNTS * _LARGE_STEP ** np.arange(n_bins + 1)).round())
        last = np.concatenate([np.arange(_EXACT_COUNTS), large])  # the largest count of each bin
        first = np.concatenate([[0], last[:-1] + 1])
        mu = np.exp(self.log_mu)[:, None]
        if dispersion == 0:
            cdf = pdtr(last, mu)
        else:
            cdf = betainc(1 / dispersion, last + 1, 1 / (1 + dispersion * mu))
        probability = np.diff(cdf, axis=1, prepend=0)
        self._value = SCALES[scale][0]
        value = self._value((first + last)[None, :] / 2, np.exp(self.log_s)[:, None])
        self._mean = value @ probability.T
        self._variance = np.maximum((value**2) @ probability.T - self._mean**2, 0)
        self._slope = np.gradient(self._mean, self.step, axis=1)

    def _spot_rows(self, table: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Interpolate a table over the depth: [depths, ...] to [B, ...]."""
        at = np.interp(np.log(np.maximum(s, SHALLOWEST)), self.log_s, np.arange(len(self.log_s)))
        low = np.minimum(at.astype(int), len(self.log_s) - 2)
        weight = (at - low).astype(table.dtype).reshape(-1, *[1] * (table.ndim - 1))
        return (1 - weight) * table[low] + weight * table[low + 1]

    @cached_property
    def _moments(self) -> np.ndarray:
        """Mean, slope, variance and 0, then their differences to the next mean, float32 [depths, means, 8].

        What is read for one entry lies together, so that memory is accessed once.
        """
        values = np.stack([self._mean, self._slope, self._variance, np.zeros_like(self._mean)], axis=2)
        return np.concatenate([values, np.diff(values, axis=1, append=values[:, -1:])], axis=2).astype(np.float32)

    def moments(self, s: np.ndarray, log_mu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, slope of the mean in log mu, and variance of x at depths s [B], all float32 and as `log_mu` [B, G]."""
        low, weight = self._between(log_mu, len(s))
        points = self._spot_rows(self._moments, s).reshape(-1, 8).take(low, axis=0)
        mean, slope, variance = (points[..., k] + points[..., k + 4] * weight for k in range(3))
        return mean, slope, variance

    def _between(self, log_mu: np.ndarray, n_spots: int) -> tuple[np.ndarray, np.ndarray]:
        """Position in [spots x means] of the tabulated mean below each log mean, and how far it is to the next."""
        n = len(self.log_mu)
        at = np.subtract(log_mu, np.float32(self.log_mu[0]), dtype=np.float32)
        at *= np.float32(1 / self.step)
        np.clip(at, 0, n - 1.001, out=at)
        low = at.astype(np.int32)
        at -= low
        low += n * np.arange(n_spots, dtype=np.int32)[:, None]
        return low, at

    def expectation(self, s: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Map from log mean counts [B, G] to the mean of x at depths s [B], both float32."""
        points = with_differences(self._spot_rows(self._mean, s))

        def mean(log_mu: np.ndarray) -> np.ndarray:
            out = np.empty(log_mu.shape, np.float32)
            for some in parts_in_cache(*log_mu.shape):
                low, weight = self._between(log_mu[some], len(s[some]))
                found = points[some].reshape(-1, 2).take(low, axis=0)
                np.multiply(found[..., 1], weight, out=out[some])
                out[some] += found[..., 0]
            return out

        return mean

    def means(self, s: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Map from log mean counts and positions of spots, both [n], to the mean of x there, at depths s [B].

        Beyond the table, where counts are large, the mean of x differs from x at the mean count as at the table's end.
        """
        rows = self._spot_rows(self._mean, s)
        n, last = rows.shape[1], self.log_mu[-1]

        def mean(log_mu: np.ndarray, at_spot: np.ndarray) -> np.ndarray:
            at = np.clip((log_mu - self.log_mu[0]) / self.step, 0, n - 1.001)
            low = at.astype(np.int64)
            left = rows[at_spot, low]
            found = left + (rows[at_spot, low + 1] - left) * (at - low)
            beyond = np.flatnonzero(log_mu > last)
            depth = s[at_spot[beyond]]
            found[beyond] += self._value(np.exp(log_mu[beyond]), depth) - self._value(np.exp(last), depth)
            return found

        return mean

    def inverse(self, s: np.ndarray) -> "MeanInverse":
        """Map from the mean of x back to the mean count, at depths s [B]."""
        return MeanInverse(*(self._spot_rows(table, s) for table in self._inverse))

    @cached_property
    def _inverse(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At each tabulated depth, of a grid even in log x: start and step [depths, 1], log mean counts, in float32."""
        log_x = np.log(np.maximum(self._mean, 1e-300))
        low = log_x[:, :1]
        step = (log_x[:, -1:] - low) / (_INVERSE_GRID - 1)
        grids = low + step * np.arange(_INVERSE_GRID)
        log_mu = np.stack([np.interp(g, row, self.log_mu) for g, row in zip(grids, log_x, strict=True)])
        return low.astype(np.float32), step.astype(np.float32), log_mu.astype(np.float32)


class MeanInverse:
    """Mean counts as a function of the mean of x: one row per spot, on grids even in log x, so no search is needed.

    Parameters
    ----------
    low, step
        Start and step of the grid of each spot, float32 [B, 1].
    log_mu
        Log mean counts at the points of the grid, float32 [B, points].
    """

    def __init__(self, low: np.ndarray, step: np.ndarray, log_mu: np.ndarray) -> None:
        self._low, self._per_step, self._n = low[:, 0], 1 / step[:, 0], log_mu.shape[1]
        self._points = with_differences(log_mu).reshape(-1, 2)

    def __call__(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean counts, float32, for the means `x` at the spots `rows`, two arrays of the same shape."""
        at = np.log(np.maximum(x, 1e-12))
        at -= self._low[rows]
        at *= self._per_step[rows]
        np.clip(at, 0, self._n - 1.01, out=at)
        low = at.astype(np.int64)
        at -= low
        low += rows * self._n
        found = self._points.take(low, axis=0)
        at *= found[..., 1]
        at += found[..., 0]
        return np.exp(at)


def count_table(scale: str, dispersion: float, size_factor: np.ndarray, max_mean: float) -> CountTable:
    """Give the `CountTable` of these arguments, which is made once: the parts of a model share it."""
    return _of_range(scale, dispersion, float(size_factor.min()), float(size_factor.max()), float(max_mean))


@lru_cache(maxsize=16)
def _of_range(scale: str, dispersion: float, shallowest: float, deepest: float, max_mean: float) -> CountTable:
    return CountTable(scale, dispersion, np.array([shallowest, deepest]), max_mean)


def with_differences(table: np.ndarray) -> np.ndarray:
    """Values of a table and their differences to the next of the row, together in memory; float32 [rows, n, 2]."""
    return np.stack([table, np.diff(table, axis=1, append=table[:, -1:])], axis=2).astype(np.float32)
