"""Standard deviation and quantiles of many draws; all draws are kept in memory only where quantiles are wanted."""

from collections.abc import Collection

import numpy as np

from stmcdi_cli import anndata_keys as keys

ENDS = (keys.IMPUTED_Q05, keys.IMPUTED_Q95)
QUANTILES = (keys.IMPUTED_MEDIAN, *ENDS)
SPREAD = (keys.IMPUTED_SD, *QUANTILES)
_ROUNDING = 2e-6
"""What float32 can change in a value, relative to it."""


def interval(draws: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval that excludes a share `tail` of the distribution of some draws [draws, n] at each end, [n].

    A further draw from the same distribution is below the k-th smallest of m with probability k / (m + 1), however
    many they are: few draws and many give intervals that hold equally often. The ends are draws themselves, so they are
    values that can occur: a count on the scale of ``X``, however another program rounds it. Beyond the smallest and the
    largest draw nothing is known: of fewer than 1 / tail - 1 draws these two are the ends, and the interval is too
    narrow.
    """
    k = max(1, int(round(tail * (len(draws) + 1), 6)))
    ends = np.partition(draws, (k - 1, len(draws) - k), axis=0)
    return _rounded(ends[k - 1], -1), _rounded(ends[len(draws) - k], 1)


def _rounded(values: np.ndarray, sign: int) -> np.ndarray:
    """Move values that are no whole numbers [n] by what rounding can change, down (-1) or up (1)."""
    return np.where(values == np.rint(values), values, values + np.float32(sign * _ROUNDING) * np.abs(values))


class DrawSummary:
    """Spread of the draws of some entries.

    Parameters
    ----------
    wanted
        Entries to summarise, bool [B, G].
    n_samples
        Number of draws that will be added.
    names
        Names in `SPREAD` of the statistics wanted.
    """

    def __init__(self, wanted: np.ndarray, n_samples: int, names: Collection[str]) -> None:
        self.names = [name for name in SPREAD if name in names]
        self._positions, self._n_genes = np.flatnonzero(wanted), wanted.shape[1]
        self._row_start = np.concatenate([[0], np.cumsum(wanted.sum(1))])
        n = int(self._row_start[-1])
        self._draws = np.empty((n_samples, n), np.float32) if set(QUANTILES) & set(names) else None
        # Mean and sum of squared deviations so far (Welford): the spread of equal draws is exactly 0.
        self._mean, self._squares = (np.zeros(n) for _ in range(2))
        self._n: dict[int, int] = {}

    def add(self, number: int, rows: slice, values: np.ndarray) -> None:
        """Add draw `number` of some rows [rows, G]; a `base.DrawCallback`."""
        part = slice(self._row_start[rows.start], self._row_start[rows.stop])
        drawn = values.take(self._positions[part] - rows.start * self._n_genes)
        if self._draws is not None:
            self._draws[number, part] = drawn
        if keys.IMPUTED_SD in self.names:
            self._n[rows.start] = n = self._n.get(rows.start, 0) + 1
            change = drawn - self._mean[part]
            self._mean[part] += change / n
            self._squares[part] += change * (drawn - self._mean[part])

    def layers(self, tail: float) -> dict[str, np.ndarray]:
        """The statistics wanted, by name, float32 [entries]; the interval excludes a share `tail` at each end."""
        statistics: dict[str, np.ndarray] = {}
        if keys.IMPUTED_SD in self.names:
            statistics[keys.IMPUTED_SD] = np.sqrt(self._squares / max(self._n.values(), default=1))
        if self._draws is not None and keys.IMPUTED_MEDIAN in self.names:
            statistics[keys.IMPUTED_MEDIAN] = np.median(self._draws, axis=0)
        if self._draws is not None and set(ENDS) & set(self.names):
            ends = zip(ENDS, interval(self._draws, tail), strict=True)
            statistics |= {name: values for name, values in ends if name in self.names}
        return {name: values.astype(np.float32) for name, values in statistics.items()}
