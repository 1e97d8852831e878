"""Standard deviation and quantiles of many draws; all draws are kept in memory only where quantiles are wanted."""

from collections.abc import Collection, Sequence

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.model.latent.blocks import parts_in_cache

ENDS = (keys.IMPUTED_Q05, keys.IMPUTED_Q95)
QUANTILES = (keys.IMPUTED_MEDIAN, *ENDS)
SPREAD = (keys.IMPUTED_SD, *QUANTILES)
_SORTED_AT_ONCE = 2**17  # values, few enough to stay in a processor's cache
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
    low, high = order_statistics(draws, _ends(len(draws), tail))
    return _rounded(low, -1), _rounded(high, 1)


def _ends(n_draws: int, tail: float) -> tuple[int, int]:
    """Ranks, from 0, of the draws at the ends of the interval."""
    k = max(1, int(round(tail * (n_draws + 1), 6)))
    return k - 1, n_draws - k


def order_statistics(draws: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
    """The draws of some ranks, from 0, of each entry: [draws, n] to [ranks, n].

    The draws of a few entries at a time are laid side by side and sorted, which takes a fifth of the time of selection.
    """
    out = np.empty((len(ranks), draws.shape[1]), draws.dtype)
    few = max(1, _SORTED_AT_ONCE // max(1, len(draws)))
    for first in range(0, draws.shape[1], few):
        some = slice(first, first + few)
        ordered = np.ascontiguousarray(draws[:, some].T)
        ordered.sort(axis=1)
        out[:, some] = ordered[:, ranks].T
    return out


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
            for some in parts_in_cache(len(drawn), 1):
                mean, squares, new = self._mean[part][some], self._squares[part][some], drawn[some]
                change = new - mean
                mean += change / n
                squares += change * (new - mean)

    def layers(self, tail: float) -> dict[str, np.ndarray]:
        """The statistics wanted, by name, float32 [entries]; the interval excludes a share `tail` at each end."""
        statistics: dict[str, np.ndarray] = {}
        if keys.IMPUTED_SD in self.names:
            statistics[keys.IMPUTED_SD] = np.sqrt(self._squares / max(self._n.values(), default=1))
        if self._draws is not None:
            n = len(self._draws)
            below, above, low, high = order_statistics(self._draws, ((n - 1) // 2, n // 2, *_ends(n, tail)))
            found = zip(QUANTILES, ((below + above) / 2, _rounded(low, -1), _rounded(high, 1)), strict=True)
            statistics |= {name: values for name, values in found if name in self.names}
        return {name: values.astype(np.float32) for name, values in statistics.items()}
